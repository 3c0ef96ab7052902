/** The whole slide in small, with the map's hot places and the part that is in view. */

import { thumbnailUrl } from "./api";
import type { Box, Slide } from "./contract";
import { h } from "./dom";
import type { MapTiles } from "./maptiles";
import { Mosaic } from "./mosaic";
import type { Layer } from "./settings";

const LONGEST = 180;

export class Overview {
  readonly element: HTMLElement;
  private canvas = h("canvas");
  private image = new Image();
  private scale: number;
  private mosaics = new Map<MapTiles, Mosaic>();
  private view: Box = [0, 0, 0, 0];

  constructor(
    private slide: Slide, private home: Box, private content: () => [MapTiles, Layer] | null,
    go: (x: number, y: number) => void,
  ) {
    const [, , width, height] = home;
    this.scale = LONGEST / Math.max(width, height);
    this.canvas.style.width = `${Math.max(width * this.scale, 24)}px`;
    this.canvas.style.height = `${Math.max(height * this.scale, 24)}px`;
    this.element = h("div", { class: "overview", "aria-hidden": "true" }, this.canvas);
    this.image.onload = () => this.draw();
    this.image.src = thumbnailUrl(slide.id);
    const move = (event: PointerEvent) => {
      const { left, top } = this.canvas.getBoundingClientRect();
      go(home[0] + (event.clientX - left) / this.scale, home[1] + (event.clientY - top) / this.scale);
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      move(event);
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons && move(event));
  }

  show(view: Box): void {
    this.view = view;
    this.draw();
  }

  draw(): void {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (!width || !height) return; // hidden on a small screen
    if (this.canvas.width !== width || this.canvas.height !== height)
      Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d") as CanvasRenderingContext2D;
    const scale = this.scale * ratio;
    const [x, y] = this.home;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    if (this.image.complete && this.image.naturalWidth) {
      const [w, h] = [this.slide.width * scale, this.slide.height * scale];
      context.drawImage(this.image, -x * scale, -y * scale, w, h);
    }
    this.map(context, { left: -x * scale, top: -y * scale, scale }, [width, height]);
    const [left, top, w, h] = this.view;
    for (const [style, line] of [["#fff", 4], ["#0b5f7a", 2]] as const) {
      context.strokeStyle = style;
      context.lineWidth = line * ratio;
      context.strokeRect((left - x) * scale, (top - y) * scale, w * scale, h * scale);
    }
  }

  private map(
    context: CanvasRenderingContext2D, view: { left: number; top: number; scale: number },
    size: [number, number],
  ): void {
    const content = this.content();
    if (!content) return;
    const [tiles, layer] = content;
    let mosaic = this.mosaics.get(tiles);
    if (!mosaic) this.mosaics.set(tiles, (mosaic = new Mosaic(tiles)));
    if (layer.shown) mosaic.draw(context, view, layer, size);
  }
}
