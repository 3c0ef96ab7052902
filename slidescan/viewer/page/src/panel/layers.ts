/** The list of maps: which are shown, how strong and in which colours. */

import { COLOUR_MAPS, type ColourMap, gradient } from "../colours";
import type { MapInfo, Progress } from "../contract";
import { slider, type Slider } from "../controls";
import { h, icon } from "../dom";
import { duration, percent } from "../format";
import type { State } from "../settings";

class Card {
  readonly element: HTMLElement;
  private eye: HTMLButtonElement;
  private pick: HTMLButtonElement;
  private opacity: Slider;
  private low: Slider;
  private high: Slider;
  private colours: HTMLSelectElement;
  private strip = h("div", { class: "strip", "aria-hidden": "true" });
  private progress = h("progress", { max: 1, value: 0, "aria-label": "Scanned" });
  private progressText = h("span", { class: "muted" });
  private live: HTMLElement;

  constructor(private map: MapInfo, private index: number, private state: State) {
    const change = (part: Parameters<State["changeLayer"]>[0]) => state.changeLayer(part, index);
    this.eye = h("button", { type: "button", class: "tool small",
      onclick: () => change({ shown: !this.layer.shown }) });
    this.pick = h("button", { type: "button", class: "layer-name", onclick: () => select(state, index) },
      h("strong", {}, map.name),
      h("span", { class: "muted" }, `${map.model}, a cell every ${map.stride_px} px`));
    this.opacity = slider({ label: "Opacity", step: 0.01, digits: 2,
      onInput: (opacity) => change({ opacity }) });
    this.low = slider({ label: "First colour at", step: 0.01, digits: 2,
      onInput: (low) => change({ low, high: Math.max(low, this.layer.high) }) });
    this.high = slider({ label: "Last colour at", step: 0.01, digits: 2,
      onInput: (high) => change({ high, low: Math.min(high, this.layer.low) }) });
    this.colours = h("select", { "aria-label": "Colour map" },
      ...COLOUR_MAPS.map((name) => h("option", { value: name }, name)));
    this.colours.addEventListener("change", () =>
      change({ colours: this.colours.value as ColourMap }));
    this.live = h("div", { class: "live", hidden: map.complete }, this.progress, this.progressText);
    this.element = h("li", { class: "layer" },
      h("div", { class: "layer-head" }, this.eye, this.pick),
      this.live,
      h("div", { class: "layer-body" },
        this.opacity.element,
        h("div", { class: "slider" }, h("span", { class: "slider-label" }, "Colours"),
          this.strip, this.colours),
        h("details", { class: "more" }, h("summary", {}, "Range of the colours"),
          this.low.element, this.high.element)));
  }

  private get layer() {
    return this.state.settings.layers[this.index]!;
  }

  update(): void {
    const { shown, opacity, low, high, colours } = this.layer;
    const selected = this.state.settings.selected === this.index;
    this.element.classList.toggle("selected", selected);
    this.pick.setAttribute("aria-pressed", String(selected));
    this.eye.replaceChildren(icon(shown ? "eye" : "hidden"));
    this.eye.setAttribute("aria-pressed", String(shown));
    this.eye.setAttribute("aria-label", `Show ${this.map.name}`);
    this.eye.title = shown ? "Hide this map" : "Show this map";
    this.opacity.set(opacity);
    this.low.set(low);
    this.high.set(high);
    this.colours.value = colours;
    this.strip.style.background = gradient(colours);
  }

  tell({ done, total, seconds_left, complete }: Progress): void {
    this.live.hidden = complete;
    this.progress.value = total ? done / total : 0;
    const left = seconds_left === null ? "" : `, ${duration(seconds_left)} left`;
    this.progressText.textContent = total ? `${percent(done / total)}${left}` : "Waiting for the scan";
  }

  silent(): void {
    this.progressText.textContent = "No news of the scan; trying again";
  }
}

/** Select a map and make sure that it can be seen. */
export function select(state: State, index: number): void {
  const layer = state.settings.layers[index];
  if (!layer) return;
  layer.shown = true;
  state.change({ selected: index });
}

export class LayersPanel {
  readonly element: HTMLElement;
  private cards: Card[];

  constructor(maps: MapInfo[], state: State) {
    this.cards = maps.map((map, index) => new Card(map, index, state));
    this.element = h("section", { class: "group" }, h("h2", {}, maps.length > 1 ? "Maps" : "Map"),
      maps.length
        ? h("ul", { class: "layers" }, ...this.cards.map((card) => card.element))
        : h("p", { class: "muted" }, "No map of this slide was opened. `slidescan heatmap` makes one."));
    const update = () => this.cards.forEach((card) => card.update());
    state.onChange(update);
    update();
  }

  tell(index: number, progress: Progress): void {
    this.cards[index]?.tell(progress);
  }

  silent(index: number): void {
    this.cards[index]?.silent();
  }
}
