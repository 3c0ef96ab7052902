/** The slide's tiles for OpenSeadragon. */

import OpenSeadragon from "openseadragon";

import { Refused, request, slideTileUrl } from "./api";
import type { Slide } from "./contract";
import { hatch } from "./hatching";

/** Width and height of a tile; those at the right and bottom edge are cut. */
function tileSize(slide: Slide, level: number, column: number, row: number): [number, number] {
  const { width, height } = slide.levels[level] as { width: number; height: number };
  const side = slide.tile_px;
  return [Math.min(side, width - column * side), Math.min(side, height - row * side)];
}

/** `onDamage` hears why a tile is hatched. */
export function slideSource(
  slide: Slide, onDamage: (reason: string) => void,
): OpenSeadragon.TileSource {
  const finest = slide.levels.length - 1;
  const source = new OpenSeadragon.TileSource({
    width: slide.width,
    height: slide.height,
    tileSize: slide.tile_px,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: finest,
    getTileUrl: (level: number, x: number, y: number) => slideTileUrl(slide.id, level, x, y),
  } as unknown as OpenSeadragon.TileSourceOptions);

  // A px of level k covers exactly 2^k level-0 px. OpenSeadragon would squeeze the rounded-up
  // last px into the slide's extent, which shifts coarse levels by up to a px.
  source.getTileBounds = (level: number, x: number, y: number, isSource?: boolean) => {
    const [width, height] = tileSize(slide, level, x, y);
    if (isSource) return new OpenSeadragon.Rect(0, 0, width, height);
    const px = 2 ** (finest - level) / slide.width;
    const side = slide.tile_px;
    return new OpenSeadragon.Rect(x * side * px, y * side * px, width * px, height * px);
  };

  source.downloadTileStart = (job: OpenSeadragon.ImageJob) => {
    const control = new AbortController();
    const userData = job.userData as { control?: AbortController };
    userData.control = control;
    load(slide, job.src, control.signal, onDamage).then(
      (context) => job.finish(context, undefined as never, "context2d"),
      (error: unknown) => job.fail(String(error), undefined as never),
    );
  };
  source.downloadTileAbort = (job: OpenSeadragon.ImageJob) =>
    (job.userData as { control?: AbortController }).control?.abort();
  return source;
}

async function load(
  slide: Slide, url: string, signal: AbortSignal, onDamage: (reason: string) => void,
): Promise<CanvasRenderingContext2D> {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  try {
    const response = await request(url, signal);
    const picture = await createImageBitmap(await response.blob());
    canvas.width = picture.width;
    canvas.height = picture.height;
    context.drawImage(picture, 0, 0);
    picture.close();
  } catch (error) {
    if (!(error instanceof Refused && error.status === 503)) throw error;
    const [, level, column, row] = /(\d+)\/(\d+)_(\d+)\.jpg/.exec(url)?.map(Number) ?? [];
    const [width, height] = tileSize(slide, level ?? 0, column ?? 0, row ?? 0);
    canvas.width = width;
    canvas.height = height;
    hatch(context, 0, 0, width, height);
    onDamage(error.message);
  }
  return context;
}
