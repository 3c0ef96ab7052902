/** One view of the slide with maps and outlines over it. */

import OpenSeadragon from "openseadragon";

import type { Box, Point, Slide } from "./contract";
import { h } from "./dom";
import { hatch } from "./hatching";
import type { MapTiles } from "./maptiles";
import { Mosaic, type Transform } from "./mosaic";
import { type Marks, Pen } from "./outlines";
import type { Layer, Place, Settings } from "./settings";
import { slideSource } from "./slidesource";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export interface Hooks {
  onMove: (pane: Pane) => void;
  onPoint: (pane: Pane, at: Point | null) => void;
  onClick: (pane: Pane, at: Point) => void;
  onTouch: (pane: Pane) => void;
  onDamage: (reason: string) => void;
}

interface Drawer {
  minimumOverlapRequired: () => boolean;
  _drawTile: (tile: OpenSeadragon.Tile, ...more: unknown[]) => void;
}

/**
 * Let tiles begin and end at whole device px.
 *
 * OpenSeadragon enlarges each tile by a px instead, so that there are no gaps: the slide would lie
 * up to a px beside the map (OpenSeadragon issue 2004). The tests measure the distance.
 */
function snapTiles(drawer: unknown): void {
  const own = drawer as Drawer;
  const draw = own._drawTile;
  const ratio = () => devicePixelRatio || 1;
  // Neighbours compute a common border each from its own side; a tie must not be rounded apart.
  const whole = (px: number) => Math.round(px * ratio() - 1e-6) / ratio();
  own.minimumOverlapRequired = () => false;
  own._drawTile = (tile, ...more) => {
    const { position, size } = tile;
    if (!position || !size) return; // it was never placed
    const [left, top] = [whole(position.x), whole(position.y)];
    const [right, bottom] = [whole(position.x + size.x), whole(position.y + size.y)];
    tile.position = new OpenSeadragon.Point(left, top);
    tile.size = new OpenSeadragon.Point(right - left, bottom - top);
    draw.call(own, tile, ...more);
  };
}

export class Pane {
  readonly element: HTMLElement;
  readonly viewer: OpenSeadragon.Viewer;
  private overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
  private context = this.overlay.getContext("2d") as CanvasRenderingContext2D;
  private mosaics = new Map<MapTiles, Mosaic>();
  private content: () => [MapTiles, Layer][] = () => [];

  constructor(
    parent: HTMLElement, readonly slide: Slide, readonly label: string,
    private settings: Settings, private marks: Marks, hooks: Hooks,
  ) {
    const stage = h("div", { class: "slide" });
    this.element = h("section", { class: "pane", "aria-label": label },
      stage, this.overlay, label ? h("h2", { class: "pane-label" }, label) : null);
    parent.append(this.element); // OpenSeadragon measures it
    this.viewer = new OpenSeadragon.Viewer({
      element: stage,
      drawer: "canvas", // the WebGL drawer fails on remote desktops without a GPU
      tileSources: [slideSource(slide, hooks.onDamage)] as never,
      showNavigationControl: false,
      animationTime: calm.matches ? 0 : 0.5,
      springStiffness: 9,
      maxZoomPixelRatio: 16,
      minZoomImageRatio: 0.4,
      visibilityRatio: 0.1,
      zoomPerScroll: 1.3,
      imageLoaderLimit: 5,
      maxImageCacheCount: label ? 60 : 240, // of a MB; with a label, there are up to four views
      tileRetryMax: 2,
      tileRetryDelay: 2000,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
    } as OpenSeadragon.Options);
    snapTiles(this.viewer.drawer);
    this.listen(hooks);
  }

  private listen(hooks: Hooks): void {
    const { viewer } = this;
    viewer.canvas.setAttribute("aria-label", `Slide ${this.slide.name}. Press ? for the keys.`);
    viewer.canvas.setAttribute("role", "application");
    viewer.addHandler("update-viewport", () => {
      this.draw();
      hooks.onMove(this);
    });
    viewer.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = true; // keys.ts has them all
    });
    for (const name of ["canvas-press", "canvas-scroll", "canvas-pinch"] as const)
      viewer.addHandler(name, () => hooks.onTouch(this));
    viewer.addHandler("canvas-click", (event) => {
      if (event.quick) hooks.onClick(this, this.toSlide(event.position.x, event.position.y));
    });
    this.element.addEventListener("pointermove", ({ clientX, clientY }) => {
      const { left, top } = this.element.getBoundingClientRect();
      hooks.onPoint(this, this.toSlide(clientX - left, clientY - top));
    });
    this.element.addEventListener("pointerleave", () => hooks.onPoint(this, null));
  }

  /** Which maps it draws, in order. */
  show(content: () => [MapTiles, Layer][]): void {
    this.content = content;
    this.draw();
  }

  destroy(): void {
    this.viewer.destroy();
    this.element.remove();
  }

  /** Where level-0 px are, in CSS px of this element. */
  transform(): Transform {
    const { viewport } = this.viewer;
    const origin = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const right = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
    return { left: origin.x, top: origin.y, scale: (right.x - origin.x) / this.slide.width };
  }

  toSlide(x: number, y: number): Point {
    const { left, top, scale } = this.transform();
    return [(x - left) / scale, (y - top) / scale];
  }

  /** The centre and zoom that an animation ends at. */
  place(): Place {
    const { viewport } = this.viewer;
    const centre = viewport.getCenter(false);
    const { width } = this.slide;
    const zoom = (viewport.getZoom(false) * viewport.getContainerSize().x) / width;
    return { x: centre.x * width, y: centre.y * width, zoom };
  }

  go({ x, y, zoom }: Place, immediately = calm.matches): void {
    const { viewport } = this.viewer;
    const { width } = this.slide;
    const centre = new OpenSeadragon.Point(x / width, y / width);
    viewport.zoomTo((zoom * width) / viewport.getContainerSize().x, undefined, immediately);
    viewport.panTo(centre, immediately);
  }

  /** Show a box with `margin` of its size around it. */
  fit([x, y, width, height]: Box, margin = 0.03, immediately = calm.matches): void {
    const size = this.viewer.viewport.getContainerSize();
    const zoom = Math.min(size.x / width, size.y / height) / (1 + 2 * margin);
    this.go({ x: x + width / 2, y: y + height / 2, zoom }, immediately);
  }

  follow(other: Pane): void {
    const { viewport } = this.viewer;
    const lead = other.viewer.viewport;
    viewport.zoomTo(lead.getZoom(true), undefined, true);
    viewport.panTo(lead.getCenter(true), true);
  }

  draw(): void {
    if (!this.viewer.viewport || !this.viewer.world.getItemCount()) return;
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.element.clientWidth * ratio);
    const height = Math.round(this.element.clientHeight * ratio);
    if (this.overlay.width !== width || this.overlay.height !== height) {
      this.overlay.width = width;
      this.overlay.height = height;
    }
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const { left, top, scale } = this.transform();
    const view = { left: left * ratio, top: top * ratio, scale: scale * ratio };
    context.save();
    context.beginPath(); // the last cells reach beyond the slide
    context.rect(view.left, view.top, this.slide.width * view.scale, this.slide.height * view.scale);
    context.clip();
    for (const [tiles, layer] of this.content()) this.map(tiles, layer, view, [width, height]);
    context.restore();
    new Pen(context, view, ratio).draw(this.marks, this.settings);
  }

  private map(tiles: MapTiles, layer: Layer, view: Transform, size: [number, number]): void {
    if (!layer.shown) return;
    let mosaic = this.mosaics.get(tiles);
    if (!mosaic) this.mosaics.set(tiles, (mosaic = new Mosaic(tiles)));
    mosaic.draw(this.context, view, layer, size);
    const [height, width] = tiles.map.cell_l0;
    this.context.globalAlpha = layer.opacity; // the slide below can be read
    for (const damaged of mosaic.damaged) {
      const x = view.left + damaged.column * width * view.scale;
      const y = view.top + damaged.row * height * view.scale;
      const columns = Math.min(damaged.columns, tiles.map.columns - damaged.column);
      const rows = Math.min(damaged.rows, tiles.map.rows - damaged.row);
      hatch(this.context, x, y, columns * width * view.scale, rows * height * view.scale);
    }
    this.context.globalAlpha = 1;
  }

  /** What is on the screen: the slide and what lies over it. */
  pictures(): HTMLCanvasElement[] {
    return [this.viewer.drawer.canvas as HTMLCanvasElement, this.overlay];
  }
}
