/** The threshold of the selected map: histogram, slider, area above it. */

import { Areas } from "../areas";
import { colourOf } from "../colours";
import type { Histogram, MapInfo } from "../contract";
import { check, slider } from "../controls";
import { h } from "../dom";
import { area, fixed, percent } from "../format";
import type { Layer, State } from "../settings";

const INSET = 8; // half of the slider's thumb, so that bar and thumb stand above each other

export class ThresholdPanel {
  readonly element: HTMLElement;
  private canvas = h("canvas", { class: "histogram", role: "img" });
  private result = h("output", { class: "area" });
  private presets = h("div", { class: "presets" });
  private areas = new Map<string, Areas>();
  private slider;
  private cut;
  private presetsOf = "";

  /** `onRest` is called when the threshold has come to rest. */
  constructor(private maps: MapInfo[], private state: State, private onRest: () => void) {
    this.slider = slider({ label: "Threshold", step: 0.001, digits: 3,
      onInput: (threshold) => state.changeLayer({ threshold }), onDone: () => onRest() });
    this.slider.element.classList.add("wide");
    this.cut = check("Hide cells below the threshold", (cut) => state.changeLayer({ cut }));
    this.element = h("section", { class: "group", hidden: !maps.length }, h("h2", {}, "Threshold"),
      this.canvas, this.slider.element, this.presets, this.result, this.cut.element);
    state.onChange(() => this.update());
    new ResizeObserver(() => this.update()).observe(this.canvas);
  }

  take(map: MapInfo, histogram: Histogram): void {
    this.areas.set(map.id, new Areas(histogram, map.cell_mm2));
    this.update();
  }

  /** Area above the threshold in words; empty until the histogram is here. */
  get text(): string {
    const layer = this.state.layer;
    const areas = layer && this.areas.get(layer.id);
    if (!layer || !areas) return "";
    const mm2 = areas.mm2(layer.threshold);
    const share = areas.totalMm2 ? ` (${percent(mm2 / areas.totalMm2)} of what was scanned)` : "";
    return `${area(mm2)} at or above ${fixed(layer.threshold, 3)}${share}`;
  }

  update(): void {
    const layer = this.state.layer;
    if (!layer) return;
    this.slider.set(layer.threshold);
    this.cut.set(layer.cut);
    this.result.textContent = this.text;
    this.canvas.setAttribute("aria-label", `Distribution of the map's values. ${this.text}`);
    this.showPresets(layer);
    this.draw(layer);
  }

  private showPresets(layer: Layer): void {
    const map = this.maps[this.state.settings.selected];
    if (!map) return;
    if (this.presetsOf !== map.id) {
      this.presetsOf = map.id;
      const named = Object.entries(map.thresholds).map(([name, value]) => {
        const sensitivity = name.replace(/^sens(\d+)$/, "$1 % sensitivity");
        return { value, text: sensitivity, title: `${name}: threshold ${fixed(value, 3)}` };
      });
      this.presets.replaceChildren(
        ...[...named, { value: 0.5, text: fixed(0.5, 1), title: "" }].map(({ value, text, title }) => {
          const onclick = () => {
            this.state.changeLayer({ threshold: value });
            this.onRest();
          };
          const button = h("button", { type: "button", class: "chip", title, onclick }, text);
          button.dataset["value"] = String(value);
          return button;
        }));
    }
    for (const button of this.presets.children) {
      const value = Number((button as HTMLElement).dataset["value"]);
      button.setAttribute("aria-pressed", String(Math.abs(value - layer.threshold) < 5e-4));
    }
  }

  /** Cells by value on a logarithmic scale: most of a slide is normal. */
  private draw({ id, colours, low, high, threshold }: Layer): void {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (!width || !height) return;
    Object.assign(this.canvas, { width, height });
    const counts = this.areas.get(id)?.histogram.counts;
    if (!counts) return;
    const context = this.canvas.getContext("2d") as CanvasRenderingContext2D;
    const inset = INSET * ratio;
    const bars = Math.min(100, counts.length);
    const sums = Array.from({ length: bars }, (_, bar) => {
      const [from, to] = [bar, bar + 1].map((edge) => Math.round((edge * counts.length) / bars));
      return counts.slice(from, to).reduce((sum, count) => sum + count, 0);
    });
    const highest = Math.log1p(Math.max(...sums, 1));
    const step = (width - 2 * inset) / bars;
    sums.forEach((sum, bar) => {
      const value = (bar + 0.5) / bars;
      const tall = (Math.log1p(sum) / highest) * (height - 2 * ratio);
      context.globalAlpha = value < threshold ? 0.4 : 1;
      context.fillStyle = colourOf(
        colours, Math.min(Math.max((value - low) / Math.max(high - low, 1e-6), 0), 1));
      context.fillRect(inset + bar * step, height - tall, step + 0.5, tall);
    });
    context.globalAlpha = 1;
    context.fillStyle = getComputedStyle(this.canvas).color;
    context.fillRect(inset + threshold * (width - 2 * inset) - ratio / 2, 0, ratio, height);
  }
}
