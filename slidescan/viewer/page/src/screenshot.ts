/** The view as a PNG, with the scale bar and a line that says what it shows. */

import { h } from "./dom";
import type { Pane } from "./pane";
import { bar } from "./scalebar";

export async function screenshot(panes: Pane[], um: number | null, caption: string): Promise<Blob> {
  const ratio = devicePixelRatio || 1;
  const frame = (panes[0] as Pane).element.parentElement as HTMLElement;
  const origin = frame.getBoundingClientRect();
  const strip = 28 * ratio;
  const canvas = h("canvas", {
    width: Math.round(origin.width * ratio), height: Math.round(origin.height * ratio + strip),
  });
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const pane of panes) {
    const { left, top, width, height } = pane.element.getBoundingClientRect();
    const place = [left - origin.left, top - origin.top, width, height] as const;
    const [x, y, w, h] = place.map((value) => Math.round(value * ratio)) as [number, number, number, number];
    for (const picture of pane.pictures()) context.drawImage(picture, x, y, w, h);
    drawBar(context, pane, um, [x + 16 * ratio, y + h - 16 * ratio], ratio);
  }
  context.fillStyle = "#111827";
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.fillText(caption, 12 * ratio, canvas.height - strip / 2, canvas.width - 24 * ratio);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser made no PNG"))), "image/png"));
}

function drawBar(
  context: CanvasRenderingContext2D, pane: Pane, um: number | null, [x, y]: [number, number],
  ratio: number,
): void {
  const l0 = 1 / pane.transform().scale;
  const { px, text } = bar(um === null ? null : um * l0, l0);
  context.fillStyle = "#ffffffd9";
  context.fillRect(x - 8 * ratio, y - 26 * ratio, (px + 16) * ratio, 34 * ratio);
  context.fillStyle = "#111827";
  context.fillRect(x, y - 4 * ratio, px * ratio, 4 * ratio);
  context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "alphabetic";
  context.fillText(text, x, y - 10 * ratio);
}

export function download(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
