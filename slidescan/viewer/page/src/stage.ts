/** The views beside each other, moving as one. */

import type { Box, Point, Slide } from "./contract";
import type { MapTiles } from "./maptiles";
import type { Marks } from "./outlines";
import { type Hooks, Pane } from "./pane";
import { MAX_SIDE, type Layer, type Place, type State } from "./settings";

export interface StageHooks extends Pick<Hooks, "onPoint" | "onClick" | "onDamage"> {
  onMove: () => void;
}

export class Stage {
  panes: Pane[] = [];
  private lead: Pane | null = null;
  private layout = "";

  constructor(
    readonly element: HTMLElement, readonly slide: Slide, private state: State,
    private tiles: MapTiles[], private marks: Marks, private hooks: StageHooks,
  ) {
    this.arrange();
    for (const map of tiles) map.onArrival = () => this.draw();
    state.onChange(() => {
      this.arrange();
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  get first(): Pane {
    return this.lead ?? (this.panes[0] as Pane);
  }

  /** The tissue of a slide with bounds, else all of it. */
  get home(): Box {
    return this.slide.bounds ?? [0, 0, this.slide.width, this.slide.height];
  }

  draw(): void {
    for (const pane of this.panes) pane.draw();
  }

  go(place: Place, immediately?: boolean): void {
    this.first.go(place, immediately);
  }

  fit(box: Box = this.home, margin?: number, immediately?: boolean): void {
    this.first.fit(box, margin, immediately);
  }

  /** Move by shares of the view. */
  pan(x: number, y: number): void {
    const place = this.first.place();
    const { clientWidth, clientHeight } = this.first.element;
    this.go({ ...place, x: place.x + (x * clientWidth) / place.zoom,
      y: place.y + (y * clientHeight) / place.zoom });
  }

  zoomBy(factor: number): void {
    const { viewport } = this.first.viewer;
    viewport.zoomBy(factor).applyConstraints();
  }

  /** The corner and the size of what is in view, level-0 px. */
  view(): Box {
    const { clientWidth, clientHeight } = this.first.element;
    const { left, top, scale } = this.first.transform();
    return [-left / scale, -top / scale, clientWidth / scale, clientHeight / scale];
  }

  centre(): Point {
    const [x, y, width, height] = this.view();
    return [x + width / 2, y + height / 2];
  }

  private content(index: number | null): [MapTiles, Layer][] {
    const pairs = this.state.settings.layers.map(
      (layer, i) => [this.tiles[i] as MapTiles, layer] as [MapTiles, Layer]);
    if (index === null) return pairs;
    const [tiles, layer] = pairs[index] as [MapTiles, Layer];
    return [[tiles, { ...layer, shown: true }]]; // a view of its own is never empty
  }

  /** As many panes as the settings ask for. */
  private arrange(): void {
    const { side, layers } = this.state.settings;
    const count = side && layers.length > 1 ? Math.min(layers.length, MAX_SIDE) : 1;
    const layout = String(count);
    if (layout === this.layout) return;
    this.layout = layout;
    const place = this.panes.length ? this.first.place() : null;
    for (const pane of this.panes) pane.destroy();
    this.lead = null;
    this.element.dataset["panes"] = layout;
    const names = count > 1 ? this.tiles.map((tiles) => tiles.map.name) : [""];
    this.panes = names.slice(0, count).map((name, index) => this.pane(name, count > 1 ? index : null));
    if (place) this.first.viewer.addOnceHandler("open", () => this.go(place, true));
  }

  private pane(name: string, index: number | null): Pane {
    const pane = new Pane(this.element, this.slide, name, this.state.settings, this.marks, {
      ...this.hooks,
      onMove: (moved) => this.moved(moved),
      onTouch: (touched) => (this.lead = touched),
    });
    pane.show(() => this.content(index));
    return pane;
  }

  private moved(pane: Pane): void {
    if (pane !== this.first) return;
    for (const other of this.panes) if (other !== pane) other.follow(pane);
    this.hooks.onMove();
  }
}
