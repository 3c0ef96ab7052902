/** The hottest regions of the selected map: a list to step through. */

import { getRegions, Refused } from "../api";
import type { MapInfo, Region } from "../contract";
import { h, iconButton, inWords } from "../dom";
import { area, lengthUm, probability } from "../format";
import type { State } from "../settings";

const LISTED = 200;
/** By length alone, so a measurement and not a diagnosis. */
const CLASSES: Record<string, string> = {
  macro: "the size of a macrometastasis",
  micro: "the size of a micrometastasis",
  itc: "the size of isolated tumour cells",
};

export class RegionsPanel {
  readonly element: HTMLElement;
  private list = h("ol", { class: "regions" });
  private note = h("p", { class: "muted", role: "status" });
  private count = h("span", { class: "muted" });
  private regions: Region[] = [];
  private current: number | null = null;
  private pending: AbortController | null = null;
  private loadedAs = "";

  /** `onList` hears of a new list and of the region that is stepped to. */
  constructor(
    private maps: MapInfo[], private state: State,
    private onList: (regions: Region[], current: number | null) => void,
    private go: (region: Region) => void,
  ) {
    this.element = h("section", { class: "group", hidden: !maps.length },
      h("div", { class: "group-head" }, h("h2", {}, "Hottest regions"), this.count,
        iconButton("back", "Previous region", () => this.step(-1), "p"),
        h("span", { class: "turned" }, iconButton("back", "Next region", () => this.step(1), "n"))),
      this.note, this.list);
    this.element.classList.add("grow");
  }

  /** Ask again if the selected map, its version or the threshold has changed. */
  async load(version: number): Promise<void> {
    const layer = this.state.layer;
    const map = this.maps[this.state.settings.selected];
    if (!layer || !map) return;
    const wanted = `${layer.id}:${layer.threshold}:${version}`;
    if (wanted === this.loadedAs) return;
    this.loadedAs = wanted;
    this.pending?.abort();
    const control = (this.pending = new AbortController());
    this.note.textContent = "Looking for regions …";
    try {
      const { regions } = await getRegions(layer.id, layer.threshold, control.signal);
      this.show(regions);
    } catch (error) {
      if (control.signal.aborted) return;
      this.show([]);
      this.note.textContent = inWords(error);
      if (error instanceof Refused && error.status === 0) this.loadedAs = "";
    }
  }

  /** Whether the reader is stepping through the list; it must not change then. */
  get inUse(): boolean {
    return this.current !== null;
  }

  step(by: number): void {
    if (!this.regions.length) return;
    const at = this.regions.findIndex(({ number }) => number === this.current);
    const next = at < 0 && by < 0 ? this.regions.length - 1 : at + by;
    const wrapped = (next + this.regions.length) % this.regions.length;
    this.choose(this.regions[wrapped] as Region);
  }

  private choose(region: Region): void {
    this.mark(region.number);
    this.go(region);
  }

  private mark(current: number | null): void {
    this.current = current;
    for (const button of this.list.querySelectorAll("button")) {
      const chosen = Number(button.dataset["number"]) === current;
      button.setAttribute("aria-current", String(chosen));
      if (chosen) button.scrollIntoView({ block: "nearest" });
    }
    this.onList(this.regions, current);
  }

  private show(regions: Region[]): void {
    this.regions = regions;
    this.count.textContent = regions.length ? String(regions.length) : "";
    this.note.textContent = regions.length ? "" : "None at this threshold.";
    if (regions.length > LISTED) this.note.textContent = `The first ${LISTED} are listed.`;
    this.list.replaceChildren(...regions.slice(0, LISTED).map((region) => this.row(region)));
    this.mark(null);
  }

  private row(region: Region): HTMLElement {
    const { number, highest, area_mm2, major_axis_um, size_class } = region;
    const button = h("button", { type: "button", onclick: () => this.choose(region),
      title: `Highest ${probability(highest)}, mean ${probability(region.mean)}, ` +
        `${lengthUm(major_axis_um)} long: ${CLASSES[size_class] ?? size_class}` },
      h("span", { class: "region-number" }, String(number)),
      h("span", { class: "region-value" }, probability(highest)),
      h("span", {}, area(area_mm2)),
      h("span", {}, lengthUm(major_axis_um)),
      h("span", { class: "region-class muted" }, size_class === "itc" ? "ITC" : size_class));
    button.dataset["number"] = String(number);
    return h("li", {}, button);
  }
}
