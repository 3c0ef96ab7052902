/** One slide on the page: joins the stage, the panel, the keys and the news. */

import { getHistogram, getMap } from "./api";
import type { Box, MapInfo, Point, Progress, Region, Slide } from "./contract";
import { byId, h, iconButton, inWords, say } from "./dom";
import { fixed, short } from "./format";
import { type Command } from "./keys";
import { read, write } from "./link";
import { follow } from "./live";
import { MapTiles } from "./maptiles";
import type { Marks } from "./outlines";
import { Overview } from "./overview";
import { LayersPanel } from "./panel/layers";
import { OutlinesPanel } from "./panel/outlines";
import { PatchPanel } from "./panel/patch";
import { RegionsPanel } from "./panel/regions";
import { ThresholdPanel } from "./panel/threshold";
import { Readout } from "./readout";
import { bar, magnification } from "./scalebar";
import { download, screenshot } from "./screenshot";
import { defaults, type Place, State } from "./settings";
import { commandsOf } from "./commands";
import { Stage } from "./stage";

const LINK_MS = 300;
const REST_MS = 400;
const HISTOGRAM_MS = 1000;
const REGIONS_MS = 15_000;
export const MAGNIFICATIONS = [1.25, 2.5, 5, 10, 20, 40];

export class SlideView {
  readonly element: HTMLElement;
  readonly state: State;
  readonly stage: Stage;
  readonly regions: RegionsPanel;
  readonly outlines: OutlinesPanel;
  readonly patch: PatchPanel;
  private tiles: MapTiles[];
  private marks: Marks = { tissue: null, annotations: [], regions: [], current: null, patch: null };
  private layers: LayersPanel;
  private threshold: ThresholdPanel;
  private readout: Readout;
  private overview: Overview;
  private scale = h("div", { class: "scale", role: "img" });
  private strength = h("output", { class: "strength" });
  private crosshair = h("div", { class: "crosshair", "aria-hidden": "true", hidden: true });
  private warnings = h("div", { class: "warnings", role: "status" });
  private stops: (() => void)[] = [];
  private linkTimer = 0;
  private restTimer = 0;
  private histogramTimers = new Map<string, number>();
  private selected = -1;
  private regionsAt = 0;

  constructor(main: HTMLElement, readonly slide: Slide, hash: string) {
    const settings = defaults(slide);
    const place = read(hash, settings);
    this.state = new State(settings);
    this.tiles = slide.maps.map((map) => new MapTiles(map));
    for (const tiles of this.tiles) tiles.onDamage = (reason) => this.warn(reason);

    const stageElement = h("div", { class: "panes" });
        this.layers = new LayersPanel(slide.maps, this.state);
    this.threshold = new ThresholdPanel(slide.maps, this.state,
      () => this.loadRegions());
    this.regions = new RegionsPanel(slide.maps, this.state,
      (regions, current) => this.mark(regions, current), (region) => this.visit(region));
    this.outlines = new OutlinesPanel(slide, this.state, this.marks, () => this.stage?.draw());
    this.patch = new PatchPanel(this.state, (box) => this.showPatch(box));
    const stageBox = h("div", { class: "stage" }, stageElement);
    this.element = h("div", { class: "view" }, stageBox,
      h("aside", { id: "panel", "aria-label": "Maps and regions" },
        this.patch.element, this.layers.element, this.threshold.element, this.regions.element,
        this.outlines.element));
    main.replaceChildren(this.element); // the stage is measured
    this.stage = new Stage(stageElement, slide, this.state, this.tiles, this.marks, {
      onMove: () => this.moved(),
      onPoint: (_, at) => this.point(at),
      onClick: (_, at) => void this.patch.ask(at),
      onDamage: (reason) => this.warn(reason),
    });
    this.readout = new Readout(byId("readout"), slide, this.state, this.tiles);
    this.overview = new Overview(slide, this.stage.home, () => this.hottest(), (x, y) =>
      this.stage.go({ ...this.stage.first.place(), x, y }));
    stageBox.append(this.crosshair, this.magnifier(),
      h("div", { class: "corner" }, this.scale, this.strength), this.overview.element, this.warnings);
    for (const warning of slide.warnings) this.warn(warning);
    for (const map of slide.maps) for (const warning of map.warnings) this.warn(`${map.name}: ${warning}`);
    this.state.onChange(() => this.changed());
    this.stage.first.viewer.addOnceHandler("open", () => {
      if (place) this.stage.go(place, true);
      else this.stage.fit(undefined, undefined, true);
    });
    this.stage.first.viewer.addHandler("open-failed", () => this.warn("The slide cannot be shown."));
    this.followMaps();
    this.changed();
  }

  destroy(): void {
    for (const timer of [this.linkTimer, this.restTimer]) clearTimeout(timer);
    for (const timer of this.histogramTimers.values()) clearTimeout(timer);
    for (const stop of this.stops) stop();
    for (const pane of this.stage.panes) pane.destroy();
  }

  /** Go to what a link says; nothing happens where it is this view's own. */
  restore(hash: string): void {
    if (hash === this.link) return;
    const place = read(hash, this.state.settings);
    this.state.change({});
    if (place) this.stage.go(place);
  }

  get link(): string {
    return write(this.slide.id, this.state.settings, this.stage.first.place());
  }

  private get version(): number {
    return this.tiles[this.state.settings.selected]?.version ?? 0;
  }

  /** Size of a level-0 px. */
  get um(): number | null {
    return this.slide.mpp ? this.slide.mpp[1] : null;
  }

  private hottest(): [MapTiles, (typeof this.state.settings.layers)[number]] | null {
    const { settings, layer } = this.state;
    const tiles = this.tiles[settings.selected];
    return layer && tiles ? [tiles, layer] : null;
  }

  private followMaps(): void {
    this.slide.maps.forEach((map, index) => {
      this.histogram(map, 0);
      this.stops.push(follow(map, {
        onProgress: (progress) => void this.progress(map, index, progress),
        onSilence: () => this.layers.silent(index),
      }));
    });
  }

  private async progress(map: MapInfo, index: number, progress: Progress): Promise<void> {
    const tiles = this.tiles[index] as MapTiles;
    this.layers.tell(index, progress);
    if (progress.version !== tiles.version) {
      tiles.refresh(progress);
      this.stage.draw();
      this.overview.draw();
      this.histogram(map);
      const due = Date.now() - this.regionsAt > REGIONS_MS && !this.regions.inUse;
      if (due && index === this.state.settings.selected) this.loadRegions();
    }
    if (!progress.complete) return;
    try {
      Object.assign(map, await getMap(map.id));
    } catch (error) {
      say(inWords(error), true);
    }
    say(`${map.name} is complete`);
    if (index === this.state.settings.selected) this.loadRegions();
  }

  /** While a scan runs each block changes it, so changes of a second are fetched at once. */
  private histogram(map: MapInfo, wait = HISTOGRAM_MS): void {
    if (this.histogramTimers.has(map.id)) return;
    const timer = window.setTimeout(async () => {
      this.histogramTimers.delete(map.id);
      const index = this.slide.maps.indexOf(map);
      try {
        this.threshold.take(map, await getHistogram(map.id, this.tiles[index]?.version ?? 0));
      } catch (error) {
        this.warn(inWords(error));
      }
    }, wait);
    this.histogramTimers.set(map.id, timer);
  }

  private loadRegions(): void {
    this.regionsAt = Date.now();
    void this.regions.load(this.version);
  }

  private mark(regions: Region[], current: number | null): void {
    Object.assign(this.marks, { regions, current });
    this.stage?.draw();
  }

  /** Show a region with enough around it to judge it. */
  private visit({ box: [x, y, width, height] }: Region): void {
    const least = this.um ? 400 / this.um : 800; // px that 400 um have
    const side = Math.max(width, height, least);
    this.stage.fit([x + width / 2 - side / 2, y + height / 2 - side / 2, side, side], 0.1);
  }

  private showPatch(box: Box | null): void {
    this.marks.patch = box;
    this.stage?.draw();
  }

  private point(at: Point | null): void {
    if (at) this.crosshair.hidden = true;
    this.readout.show(at ?? this.target());
  }

  /** Where keys act: at the pointer, or at the cross-hair in the middle. */
  target(): Point {
    return this.crosshair.hidden && this.readout.at ? this.readout.at : this.stage.centre();
  }

  aim(on = true): void {
    this.crosshair.hidden = !on;
    this.readout.show(this.stage.centre());
  }

  toggleAim(): void {
    this.aim(!!this.crosshair.hidden);
  }

  /** The threshold has been moved by key: look for regions when no key follows. */
  rest(): void {
    clearTimeout(this.restTimer);
    this.restTimer = window.setTimeout(() => this.loadRegions(), REST_MS);
  }

  private moved(): void {
    const um = this.um;
    const l0 = 1 / this.stage.first.transform().scale;
    const { px, text } = bar(um === null ? null : um * l0, l0);
    this.scale.style.width = `${px}px`;
    this.scale.textContent = text;
    this.scale.setAttribute("aria-label", `The bar is ${text} long`);
    this.strength.textContent = um === null ? `${short(1 / l0)} : 1` : `${short(magnification(um * l0), 2)}×`;
    this.overview.show(this.stage.view());
    if (!this.crosshair.hidden) this.readout.show(this.stage.centre());
    this.saveLink();
  }

  private changed(): void {
    const { selected } = this.state.settings;
    if (selected !== this.selected) this.loadRegions();
    this.selected = selected;
    this.threshold.update();
    this.overview.draw();
    this.readout.draw();
    this.saveLink();
  }

  /** Once the view rests: browsers limit how often a page may change its address. */
  private saveLink(): void {
    clearTimeout(this.linkTimer);
    this.linkTimer = window.setTimeout(() => history.replaceState(null, "", this.link), LINK_MS);
  }

  /** A warning stays until it is closed, and is shown once. */
  warn(text: string): void {
    if ([...this.warnings.children].some((child) => child.firstChild?.textContent === text)) return;
    const line = h("p", {}, h("span", {}, text), iconButton("close", "Close", () => line.remove()));
    this.warnings.append(line);
  }

  private magnifier(): HTMLElement {
    const button = (text: string, title: string, run: () => void) =>
      h("button", { type: "button", title, "aria-label": title, onclick: run }, text);
    const steps = this.um === null ? [] : MAGNIFICATIONS.map((times, index) =>
      button(`${fixed(times, times < 5 ? (times === 1.25 ? 2 : 1) : 0)}×`,
        `${short(times)} times (${index + 1})`, () => this.magnify(times)));
    return h("div", { class: "magnifier", role: "toolbar", "aria-label": "Magnification" },
      button("+", "Closer (+)", () => this.stage.zoomBy(1.5)), ...steps.reverse(),
      button("−", "Farther (-)", () => this.stage.zoomBy(1 / 1.5)),
      button("Fit", "All of the slide (0)", () => this.stage.fit()));
  }

  magnify(times: number): void {
    if (this.um === null) return;
    const place: Place = this.stage.first.place();
    this.stage.go({ ...place, zoom: (times * this.um) / 10 });
  }

  async copy(text: string, what: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      say(`${what} copied`);
    } catch {
      say(text); // the browser has no clipboard for this page: let people select it
    }
  }

  copyPlace(): void {
    if (!this.readout.at) this.aim();
    void this.copy(this.readout.text, "Coordinates");
  }

  copyLink(): void {
    history.replaceState(null, "", this.link);
    void this.copy(location.href, "Link");
  }

  async picture(): Promise<void> {
    const layer = this.state.layer;
    const map = layer?.shown ? `, ${this.slide.maps[this.state.settings.selected]?.name}` : "";
    const caption = `${this.slide.name}${map}${layer?.shown ? `: ${this.threshold.text}` : ""}. Research use only.`;
    try {
      const name = this.slide.name.replace(/\.[^.]*$/, "");
      download(await screenshot(this.stage.panes, this.um, caption), `${name}.png`);
      say("Picture saved");
    } catch (error) {
      say(inWords(error), true);
    }
  }

  togglePanel(): void {
    document.body.classList.toggle("no-panel");
  }

  tools(): Node[] {
    const several = this.slide.maps.length > 1;
    return [
      ...(several ? [iconButton("side", "Maps side by side or as layers", () => this.toggleSide(), "l")] : []),
      iconButton("copy", "Copy coordinates", () => this.copyPlace(), "c"),
      iconButton("link", "Copy a link to this view", () => this.copyLink(), "u"),
      iconButton("camera", "Save a picture", () => void this.picture(), "s"),
      iconButton("panel", "Show or hide the panel", () => this.togglePanel(), "b"),
    ];
  }

  toggleSide(): void {
    this.state.change({ side: !this.state.settings.side });
  }

  commands(): Command[] {
    return commandsOf(this);
  }
}
