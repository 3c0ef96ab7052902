/** Values and coordinates under the pointer, or under the cross-hair. */

import { getCell } from "./api";
import type { Point, Slide } from "./contract";
import { h } from "./dom";
import { fixed, probability } from "./format";
import type { MapTiles } from "./maptiles";
import type { State } from "./settings";

const PATIENCE_MS = 120;

export class Readout {
  at: Point | null = null;
  private pending: AbortController | null = null;
  private timer = 0;
  private known = new Map<string, number | null>();

  constructor(
    private element: HTMLElement, private slide: Slide, private state: State,
    private tiles: MapTiles[],
  ) {}

  show(at: Point | null): void {
    this.at = at;
    this.pending?.abort();
    clearTimeout(this.timer);
    this.known.clear();
    if (at && this.inside(at)) this.ask(at);
    this.draw();
  }

  private inside([x, y]: Point): boolean {
    return x >= 0 && y >= 0 && x < this.slide.width && y < this.slide.height;
  }

  private shown(): MapTiles[] {
    const { layers, side } = this.state.settings;
    return this.tiles.filter((_, index) => side || layers[index]?.shown);
  }

  /** Zoomed out, the page has no level-0 values: the server is asked when the pointer rests. */
  private ask([x, y]: Point): void {
    const missing: string[] = [];
    for (const tiles of this.shown()) {
      const { id, cell_l0, rows, columns } = tiles.map;
      const row = Math.floor(y / cell_l0[0]);
      const column = Math.floor(x / cell_l0[1]);
      const value = row < rows && column < columns ? tiles.value(row, column) : NaN;
      if (value === undefined) missing.push(id);
      else this.known.set(id, Number.isNaN(value) ? null : value);
    }
    if (!missing.length) return;
    this.timer = window.setTimeout(() => {
      const control = (this.pending = new AbortController());
      for (const id of missing)
        getCell(id, x, y, control.signal).then(
          ({ p }) => {
            this.known.set(id, p);
            this.draw();
          },
          () => {}, // the next move asks again, and the map itself says what is wrong
        );
    }, PATIENCE_MS);
  }

  private value(tiles: MapTiles): string {
    const p = this.known.get(tiles.map.id);
    return p === undefined ? "…" : p === null ? "not scanned" : probability(p);
  }

  /** For the clipboard: numbers with a point and no grouping. */
  get text(): string {
    if (!this.at) return "";
    const [x, y] = this.at.map(Math.floor) as Point;
    const { mpp } = this.slide;
    const um = mpp ? `, x_um=${(x * mpp[1]).toFixed(2)}, y_um=${(y * mpp[0]).toFixed(2)}` : "";
    const values = this.shown().map((tiles) => {
      const p = this.known.get(tiles.map.id);
      return p == null ? "" : `, ${tiles.map.name}: p=${p.toFixed(6)}`;
    });
    return `${this.slide.name}: x=${x}, y=${y} (level-0 px)${um}${values.join("")}`;
  }

  draw(): void {
    if (!this.at || !this.inside(this.at)) {
      this.element.replaceChildren(h("span", { class: "muted" }, this.slide.name));
      return;
    }
    const [x, y] = this.at;
    const { mpp } = this.slide;
    const part = (name: string, value: string) =>
      h("span", { class: "part" }, h("span", { class: "muted" }, `${name} `), value);
    const shown = this.shown();
    this.element.replaceChildren(
      ...shown.map((tiles) => part(shown.length > 1 ? tiles.map.name : "Probability", this.value(tiles))),
      ...(mpp ? [part("µm", `${fixed(x * mpp[1], 1)} / ${fixed(y * mpp[0], 1)}`)] : []),
      part("px", `${fixed(Math.floor(x), 0)} / ${fixed(Math.floor(y), 0)}`),
    );
  }
}
