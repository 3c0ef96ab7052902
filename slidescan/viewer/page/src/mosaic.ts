/**
 * A map on a canvas, a canvas pixel for a cell.
 *
 * All visible cells of a level form one picture, which is then drawn with one transform. So tiles
 * cannot have seams, whatever the opacity, and a cell lies exactly on the pixels that it covers.
 */

import { step, table } from "./colours";
import type { MapTiles } from "./maptiles";
import type { Layer } from "./settings";

/** Where level-0 px (x, y) is on the canvas: (left + x * scale, top + y * scale), in device px. */
export interface Transform {
  left: number;
  top: number;
  scale: number;
}

export interface Range {
  level: number;
  row0: number;
  row1: number;
  column0: number;
  column1: number;
}

const MIN_CELL_PX = 2;

/** The finest level whose cells are not smaller than `MIN_CELL_PX` device px. */
export function levelFor(tiles: MapTiles, scale: number): number {
  const cell = Math.min(...tiles.map.cell_l0) * scale;
  const level = Math.ceil(Math.log2(Math.max(MIN_CELL_PX / cell, 1e-9)));
  return Math.min(Math.max(level, 0), tiles.coarsest);
}

export class Mosaic {
  private canvas = document.createElement("canvas");
  private context = this.canvas.getContext("2d") as CanvasRenderingContext2D;
  private p = new Float32Array(0);
  private coverage = new Uint8Array(0);
  private range: Range | null = null;
  private filledAs = "";
  private colouredAs = "";
  /** Tiles of the range that cannot be read, in cells of level 0. */
  damaged: { row: number; column: number; rows: number; columns: number }[] = [];

  constructor(readonly tiles: MapTiles) {}

  /** Draw the cells that `width` x `height` device px show. */
  draw(target: CanvasRenderingContext2D, view: Transform, layer: Layer, size: [number, number]): void {
    const range = this.visible(view, size);
    if (!range) return;
    this.fill(range);
    this.colour(layer);
    const [height, width] = this.cell(range.level);
    target.save();
    target.globalAlpha = layer.opacity;
    target.imageSmoothingEnabled = false;
    target.setTransform(
      width * view.scale, 0, 0, height * view.scale,
      view.left + range.column0 * width * view.scale,
      view.top + range.row0 * height * view.scale,
    );
    target.drawImage(this.canvas, 0, 0);
    target.restore();
  }

  /** Height and width of a cell of a level, level-0 px. */
  private cell(level: number): [number, number] {
    const [height, width] = this.tiles.map.cell_l0;
    return [height * 2 ** level, width * 2 ** level];
  }

  /** The tiles in view, as cells. */
  private visible(view: Transform, [width, height]: [number, number]): Range | null {
    const level = levelFor(this.tiles, view.scale);
    const shape = this.tiles.map.levels[level];
    if (!shape) return null;
    const side = this.tiles.map.tile_cells;
    const along = (start: number, extent: number, cell: number, cells: number) => {
      const from = Math.floor(-start / (cell * view.scale) / side) * side;
      const to = Math.ceil((extent - start) / (cell * view.scale) / side) * side;
      return [Math.max(from, 0), Math.min(to, cells)] as const;
    };
    const [cellHeight, cellWidth] = this.cell(level);
    const [row0, row1] = along(view.top, height, cellHeight, shape.rows);
    const [column0, column1] = along(view.left, width, cellWidth, shape.columns);
    return row1 > row0 && column1 > column0 ? { level, row0, row1, column0, column1 } : null;
  }

  /** Bring the values of a range together, from coarser tiles where the finer ones are missing. */
  private fill(range: Range): void {
    const { level, row0, row1, column0, column1 } = range;
    const wanted = `${[level, row0, row1, column0, column1]}:${this.tiles.revision}`;
    const stale = this.ask(range);
    if (wanted === this.filledAs && !stale) return;
    this.filledAs = wanted;
    this.colouredAs = "";
    this.range = range;
    this.damaged = [];
    const cells = (row1 - row0) * (column1 - column0);
    if (this.p.length !== cells) {
      this.p = new Float32Array(cells);
      this.coverage = new Uint8Array(cells);
    }
    this.p.fill(NaN);
    this.coverage.fill(0);
    const side = this.tiles.map.tile_cells;
    for (let row = row0 / side; row * side < row1; row++)
      for (let column = column0 / side; column * side < column1; column++)
        this.place(range, row, column);
  }

  /** Request what the range needs; whether a tile of it is known to be out of date. */
  private ask({ level, row0, row1, column0, column1 }: Range): boolean {
    const side = this.tiles.map.tile_cells;
    let stale = false;
    for (let row = row0 / side; row * side < row1; row++)
      for (let column = column0 / side; column * side < column1; column++)
        stale = this.tiles.tile(level, column, row).stale || stale;
    return stale;
  }

  private place(range: Range, row: number, column: number): void {
    const { tile_cells: side } = this.tiles.map;
    const tile = this.tiles.peek(range.level, column, row);
    if (tile?.damage) {
      const scale = 2 ** range.level * side;
      this.damaged.push({ row: row * scale, column: column * scale, rows: scale, columns: scale });
    }
    // The nearest level that has these cells: this one, else a coarser one.
    for (let up = 0; range.level + up <= this.tiles.coarsest; up++) {
      const values = this.tiles.peek(range.level + up, column >> up, row >> up)?.values;
      if (!values) continue;
      const width = range.column1 - range.column0;
      const lastRow = Math.min((row + 1) * side, range.row1);
      const lastColumn = Math.min((column + 1) * side, range.column1);
      const [originRow, originColumn] = [(row >> up) * side, (column >> up) * side];
      for (let r = row * side; r < lastRow; r++) {
        const from = Math.min((r >> up) - originRow, values.rows - 1) * values.columns;
        const to = (r - range.row0) * width - range.column0;
        for (let c = column * side; c < lastColumn; c++) {
          const source = from + Math.min((c >> up) - originColumn, values.columns - 1);
          this.p[to + c] = values.p[source] as number;
          this.coverage[to + c] = values.coverage[source] as number;
        }
      }
      return;
    }
  }

  private colour({ colours, low, high, threshold, cut }: Layer): void {
    const wanted = [colours, low, high, threshold, cut].join();
    if (!this.range || wanted === this.colouredAs) return;
    this.colouredAs = wanted;
    const width = this.range.column1 - this.range.column0;
    const height = this.range.row1 - this.range.row0;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const picture = new ImageData(width, height);
    paint(picture, this.p, this.coverage, { colours, low, high, least: cut ? threshold : -1 });
    this.context.putImageData(picture, 0, 0);
  }
}

/** Colour values; NaN and what is below `least` stay transparent. */
export function paint(
  picture: ImageData, p: Float32Array, coverage: Uint8Array,
  { colours, low, high, least }: Pick<Layer, "colours" | "low" | "high"> & { least: number },
): void {
  const words = new Uint32Array(picture.data.buffer);
  const lookup = table(colours);
  for (let i = 0; i < p.length; i++) {
    const value = p[i] as number;
    if (!(value >= least)) continue; // also where value is NaN
    const colour = lookup[step(value, low, high)] as number;
    words[i] = (((coverage[i] as number) << 24) | (colour & 0xffffff)) >>> 0;
  }
}
