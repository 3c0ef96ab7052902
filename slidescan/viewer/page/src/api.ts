/** The server's answers, and its refusals in words. Every URL is relative. */

import type {
  Annotation, CellValue, Histogram, Listing, MapInfo, PatchAnswer, Polygon, Regions, Slide,
} from "./contract";

/** A request that the server refused or did not answer (status 0); the message is for people. */
export class Refused extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

export const SILENT = "The viewer does not answer. Is `slidescan view` still running?";

/** Fetch `url`; anything but success raises `Refused`, an abort passes through. */
export async function request(url: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, signal ? { signal } : {});
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, SILENT);
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response: Response): Promise<string> {
  try {
    const { error } = (await response.json()) as { error?: unknown };
    if (typeof error === "string" && error) return error;
  } catch {
    // The answer is not JSON; its status has to do.
  }
  return `The viewer answered ${response.status} ${response.statusText}`.trim();
}

async function json<T>(url: string, signal?: AbortSignal): Promise<T> {
  return (await request(url, signal)).json() as Promise<T>;
}

const slide = (id: string) => `api/slides/${encodeURIComponent(id)}`;
const map = (id: string) => `api/maps/${encodeURIComponent(id)}`;
const at = (x: number, y: number) => `x=${Math.floor(x)}&y=${Math.floor(y)}`;

export const slideTileUrl = (id: string, level: number, column: number, row: number) =>
  `${slide(id)}/tiles/${level}/${column}_${row}.jpg`;
export const thumbnailUrl = (id: string) => `${slide(id)}/thumbnail.jpg`;
export const mapTileUrl = (id: string, level: number, column: number, row: number, v: number) =>
  `${map(id)}/tiles/${level}/${column}_${row}?v=${v}`;
export const eventsUrl = (id: string) => `${map(id)}/events`;

export const getListing = () => json<Listing>("api/slides");
export const getSlide = (id: string) => json<Slide>(slide(id));
export const getMap = (id: string) => json<MapInfo>(map(id));
export const getHistogram = (id: string, version: number) =>
  json<Histogram>(`${map(id)}/histogram?v=${version}`);
export const getCell = (id: string, x: number, y: number, signal: AbortSignal) =>
  json<CellValue>(`${map(id)}/cell?${at(x, y)}`, signal);
export const getPatch = (id: string, x: number, y: number, signal: AbortSignal) =>
  json<PatchAnswer>(`${map(id)}/patch?${at(x, y)}`, signal);
export const getRegions = (id: string, threshold: number, signal: AbortSignal) =>
  json<Regions>(`${map(id)}/regions?threshold=${threshold}`, signal);
export const getTissue = (id: string) => json<{ outlines: Polygon[] }>(`${map(id)}/tissue`);
export const getAnnotations = (id: string, annotation: string) =>
  json<{ name: string; outlines: Annotation[] }>(
    `${slide(id)}/annotations/${encodeURIComponent(annotation)}`,
  );
