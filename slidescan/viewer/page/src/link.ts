/** A view as the fragment of a URL. Numbers are written with a point in every language. */

import { COLOUR_MAPS, type ColourMap } from "./colours";
import type { Layer, Place, Settings } from "./settings";

export const slideOf = (hash: string): string | null => new URLSearchParams(hash.slice(1)).get("slide");

export const slideLink = (id: string): string => `#${new URLSearchParams({ slide: id })}`;

const round = (value: number, digits: number) => String(Number(value.toFixed(digits)));

export function write(slide: string, settings: Settings, place: Place): string {
  const query = new URLSearchParams({
    slide,
    x: round(place.x, 1),
    y: round(place.y, 1),
    zoom: String(Number(place.zoom.toPrecision(5))),
    selected: String(settings.selected),
    side: settings.side ? "1" : "0",
    tissue: settings.tissue ? "1" : "0",
    regions: settings.regions ? "1" : "0",
  });
  for (const id of settings.hidden) query.append("hidden", id);
  for (const layer of settings.layers) {
    const { shown, opacity, low, high, colours, threshold, cut, id } = layer;
    const numbers = [opacity, low, high, threshold].map((value) => round(value, 4));
    query.append("map", [shown ? 1 : 0, cut ? 1 : 0, ...numbers, colours, id].join("~"));
  }
  return `#${query}`;
}

/** Apply what a link says to `settings`, and return its place; parts that make no sense are left out. */
export function read(hash: string, settings: Settings): Place | null {
  const query = new URLSearchParams(hash.slice(1));
  for (const text of query.getAll("map")) readLayer(text, settings.layers);
  const selected = Number(query.get("selected"));
  if (Number.isInteger(selected) && selected >= 0 && selected < settings.layers.length)
    settings.selected = selected;
  for (const key of ["side", "tissue", "regions"] as const)
    if (query.has(key)) settings[key] = query.get(key) === "1";
  settings.hidden = query.getAll("hidden");
  const [x, y, zoom] = ["x", "y", "zoom"].map((key) => number(query.get(key)));
  return x != null && y != null && zoom != null && zoom > 0 ? { x, y, zoom } : null;
}

function number(text: string | null | undefined): number | null {
  const value = text ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}

function readLayer(text: string, layers: Layer[]): void {
  const [shown, cut, opacity, low, high, threshold, colours, ...id] = text.split("~");
  const layer = layers.find((candidate) => candidate.id === id.join("~"));
  if (!layer) return;
  layer.shown = shown === "1";
  layer.cut = cut === "1";
  for (const [key, part] of Object.entries({ opacity, low, high, threshold })) {
    const value = number(part);
    if (value !== null && value >= 0 && value <= 1)
      layer[key as "opacity" | "low" | "high" | "threshold"] = value;
  }
  if (COLOUR_MAPS.includes(colours as ColourMap)) layer.colours = colours as ColourMap;
}
