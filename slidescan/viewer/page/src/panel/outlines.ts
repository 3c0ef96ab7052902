/** Which outlines are drawn. */

import { getAnnotations, getTissue } from "../api";
import type { Slide } from "../contract";
import { check } from "../controls";
import { h, inWords, say } from "../dom";
import { type Marks, path, type Shape, shapes } from "../outlines";
import type { State } from "../settings";

export class OutlinesPanel {
  readonly element: HTMLElement;
  private shapes = new Map<string, Shape[]>();
  private tissueOf = "";
  private classes: string[] = [];
  private legend = h("ul", { class: "legend" });

  constructor(
    private slide: Slide, private state: State, private marks: Marks, private redraw: () => void,
  ) {
    const tissue = check("Tissue that was scanned (t)", (on) => state.change({ tissue: on }), "#0f766e");
    const regions = check("Regions (r)", (on) => state.change({ regions: on }), "#111827");
    const annotations = slide.annotations.map(({ id, name }) => ({
      id, box: check(name, (on) => this.toggle(id, on)),
    }));
    const boxes = [...(slide.maps.length ? [regions, tissue] : []), ...annotations.map(({ box }) => box)];
    this.element = h("section", { class: "group", hidden: !boxes.length },
      h("h2", {}, "Outlines"), ...boxes.map((box) => box.element), this.legend);
    const update = () => {
      tissue.set(state.settings.tissue);
      regions.set(state.settings.regions);
      for (const { id, box } of annotations) box.set(!state.settings.hidden.includes(id));
      this.show();
    };
    state.onChange(update);
    update();
    for (const { id } of slide.annotations) void this.load(id);
  }

  /** All annotations on or off. */
  toggleAll(): void {
    const all = this.slide.annotations.map(({ id }) => id);
    this.state.change({ hidden: this.state.settings.hidden.length < all.length ? all : [] });
  }

  private toggle(id: string, on: boolean): void {
    const others = this.state.settings.hidden.filter((hidden) => hidden !== id);
    this.state.change({ hidden: on ? others : [...others, id] });
  }

  private show(): void {
    const { settings } = this.state;
    this.marks.annotations = [...this.shapes]
      .filter(([id]) => !settings.hidden.includes(id))
      .flatMap(([, shapes]) => shapes);
    if (settings.tissue) void this.loadTissue();
    this.redraw();
  }

  private showLegend(): void {
    const colours = new Map([...this.shapes.values()].flat().map(({ name, colour }) => [name, colour]));
    this.legend.replaceChildren(...[...colours].map(([name, colour]) => {
      const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour;
      return h("li", {}, swatch, name || "without a class");
    }));
  }

  private async load(id: string): Promise<void> {
    try {
      const { outlines } = await getAnnotations(this.slide.id, id);
      this.shapes.set(id, shapes(outlines, this.classes));
      this.showLegend();
      this.show();
    } catch (error) {
      say(inWords(error), true);
    }
  }

  private async loadTissue(): Promise<void> {
    const layer = this.state.layer;
    if (!layer || this.tissueOf === layer.id) return;
    this.tissueOf = layer.id;
    try {
      this.marks.tissue = path((await getTissue(layer.id)).outlines);
      this.redraw();
    } catch (error) {
      say(inWords(error), true);
    }
  }
}
