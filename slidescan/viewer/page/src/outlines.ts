/** Outlines in level-0 px whose lines keep their width on the screen. */

import type { Annotation, Box, Point, Polygon, Region } from "./contract";
import type { Transform } from "./mosaic";

export interface Shape {
  path: Path2D;
  colour: string;
  /** The class that was annotated. */
  name: string;
}

export interface Marks {
  tissue: Path2D | null;
  annotations: Shape[];
  regions: Region[];
  /** Number of the region that the reader has stepped to. */
  current: number | null;
  /** The 96 px that the classifier was asked about. */
  patch: Box | null;
}

const TISSUE = "#0f766e";
/** Of classes without a colour: those of Okabe and Ito, dark enough on glass. */
const CLASSES = ["#0072b2", "#d55e00", "#b1367f", "#007a5a", "#6b4fbb", "#8a6d00"];
const REGION = "#111827";
const SMALL_PX = 14; // a region smaller than this on the screen gets a ring
const RINGED = 30; // the hottest of them; hundreds of rings would hide the tissue
const NUMBERED_PX = 40;

/** Rings as one path; the fill rule makes holes of the inner ones, the stroke follows all. */
export function path(polygons: Polygon[]): Path2D {
  const found = new Path2D();
  for (const polygon of polygons)
    for (const ring of polygon) {
      ring.forEach(([x, y], i) => (i ? found.lineTo(x, y) : found.moveTo(x, y)));
      found.closePath();
    }
  return found;
}

/** The outlines of a file; `names` are its classes so far, in the order that they were met. */
export function shapes(annotations: Annotation[], names: string[]): Shape[] {
  return annotations.map(({ class: name, colour, rings }) => {
    if (!names.includes(name)) names.push(name);
    const chosen = CLASSES[names.indexOf(name) % CLASSES.length] as string;
    return { path: path([rings]), colour: colour ?? chosen, name };
  });
}

const paths = new WeakMap<Region, Path2D>();
const corners = new WeakMap<Region, Point>();

function regionPath(region: Region): Path2D {
  let found = paths.get(region);
  if (!found) paths.set(region, (found = path([region.outline])));
  return found;
}

export class Pen {
  /** `ratio`: device px for a CSS px. */
  constructor(
    private context: CanvasRenderingContext2D, private view: Transform, private ratio: number,
  ) {}

  draw(marks: Marks, show: { tissue: boolean; regions: boolean }): void {
    if (show.tissue && marks.tissue) this.stroke(marks.tissue, TISSUE, 1.5);
    for (const { path: outline, colour } of marks.annotations) this.stroke(outline, colour, 2);
    if (show.regions) for (const region of marks.regions) this.region(region, marks.current);
    if (marks.patch) this.patch(marks.patch);
  }

  /** A light line under the coloured one: it can be seen on tissue, glass and map alike. */
  private stroke(outline: Path2D, colour: string, width: number): void {
    const { context, view, ratio } = this;
    context.save();
    context.setTransform(view.scale, 0, 0, view.scale, view.left, view.top);
    context.lineJoin = "round";
    for (const [style, px] of [["#ffffffb0", width + 1.75], [colour, width]] as const) {
      context.strokeStyle = style;
      context.lineWidth = (px * ratio) / view.scale;
      context.stroke(outline);
    }
    context.restore();
  }

  private region(region: Region, current: number | null): void {
    const chosen = region.number === current;
    const [x, y, width, height] = this.onScreen(region.box);
    if (x + width < 0 || y + height < 0) return;
    if (x > this.context.canvas.width || y > this.context.canvas.height) return;
    const extent = Math.max(width, height) / this.ratio;
    const small = extent < SMALL_PX && (chosen || region.number <= RINGED);
    const line = chosen ? 2.5 : 1.25;
    if (small) {
      const ring = new Path2D();
      const radius = (SMALL_PX * this.ratio) / 2 / this.view.scale;
      const [left, top, w, h] = region.box;
      ring.arc(left + w / 2, top + h / 2, radius, 0, 2 * Math.PI);
      this.stroke(ring, REGION, line);
    } else {
      this.stroke(regionPath(region), REGION, line);
    }
    if (chosen || extent >= NUMBERED_PX)
      this.label(String(region.number), small ? [x + width, y] : this.corner(region), chosen);
  }

  private patch(box: Box): void {
    const outline = new Path2D();
    outline.rect(...box);
    this.stroke(outline, "#be123c", 2);
    const [x, y, width, height] = box;
    const centre = new Path2D();
    centre.rect(x + width / 3, y + height / 3, width / 3, height / 3);
    this.stroke(centre, "#be123c", 1);
  }

  private label(text: string, [x, y]: Point, chosen: boolean): void {
    const { context, ratio } = this;
    context.save();
    context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    const height = 16 * ratio;
    const width = Math.max(height, context.measureText(text).width + 8 * ratio);
    context.fillStyle = chosen ? "#0b5f7a" : REGION;
    context.strokeStyle = "#fff";
    context.lineWidth = ratio;
    context.beginPath();
    context.roundRect(x - width / 2, y - height / 2, width, height, height / 2);
    context.fill();
    context.stroke();
    context.fillStyle = "#fff";
    context.fillText(text, x, y + ratio / 2);
    context.restore();
  }

  /** The vertex of the outline that lies farthest to the upper right. */
  private corner(region: Region): Point {
    let found = corners.get(region);
    if (!found) {
      const ring = region.outline[0] ?? [[region.box[0], region.box[1]]];
      found = ring.reduce((best, at) => (at[0] - at[1] > best[0] - best[1] ? at : best));
      corners.set(region, found);
    }
    return [this.view.left + found[0] * this.view.scale, this.view.top + found[1] * this.view.scale];
  }

  private onScreen([x, y, width, height]: Box): Box {
    const { left, top, scale } = this.view;
    return [left + x * scale, top + y * scale, width * scale, height * scale];
  }
}
