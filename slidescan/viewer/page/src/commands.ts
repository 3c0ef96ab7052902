/** The keys of a slide's view. */

import { COLOUR_MAPS, type ColourMap } from "./colours";
import type { Command } from "./keys";
import { select } from "./panel/layers";
import { MAGNIFICATIONS, type SlideView } from "./slideview";

const PAN: Record<string, [number, number]> = {
  ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2],
};

const within = (value: number) => Math.round(Math.min(Math.max(value, 0), 1) * 1000) / 1000;

export function commandsOf(view: SlideView): Command[] {
  const { state, stage } = view;
  const { layers } = state.settings;
  const moved = (run: () => void) => {
    run();
    view.aim();
  };
  const forMaps: Command[] = [
    { keys: ["p", "n"], text: "Previous, next region", run: (key) => view.regions.step(key === "n" ? 1 : -1) },
    { keys: ["m"], text: "Map on or off", run: () => state.changeLayer({ shown: !state.layer?.shown }) },
    { keys: ["[", "]"], text: "Opacity down, up", run: (key) =>
      state.changeLayer({ opacity: within((state.layer?.opacity ?? 0) + (key === "]" ? 0.1 : -0.1)) }) },
    { keys: [",", "."], text: "Threshold down, up", run: (key) => {
      state.changeLayer({ threshold: within((state.layer?.threshold ?? 0) + (key === "." ? 0.01 : -0.01)) });
      view.rest();
    } },
    { keys: ["h"], text: "Hide or show cells below the threshold", run: () =>
      state.changeLayer({ cut: !state.layer?.cut }) },
    { keys: ["k"], text: "Next colour map", run: () => {
      const next = (COLOUR_MAPS.indexOf(state.layer?.colours ?? "viridis") + 1) % COLOUR_MAPS.length;
      state.changeLayer({ colours: COLOUR_MAPS[next] as ColourMap });
    } },
    { keys: ["Enter"], text: "Ask the patch classifier at the pointer or cross-hair", run: () =>
      void view.patch.ask(view.target()) },
    { keys: ["r"], text: "Outlines of regions", run: () => state.change({ regions: !state.settings.regions }) },
    { keys: ["t"], text: "Outline of the tissue", run: () => state.change({ tissue: !state.settings.tissue }) },
  ];
  const forSeveral: Command[] = [
    { keys: ["w"], text: "Select the next map", run: () =>
      select(state, (state.settings.selected + 1) % layers.length) },
    { keys: ["l"], text: "Maps side by side or as layers", run: () => view.toggleSide() },
  ];
  return [
    { keys: Object.keys(PAN), text: "Move", run: (key) => moved(() => stage.pan(...(PAN[key] as [number, number]))) },
    { keys: ["+", "="], text: "Closer", run: () => moved(() => stage.zoomBy(1.5)) },
    { keys: ["-"], text: "Farther", run: () => moved(() => stage.zoomBy(1 / 1.5)) },
    { keys: ["0"], text: "All of the slide", run: () => stage.fit() },
    ...(view.um === null ? [] : [{ keys: MAGNIFICATIONS.map((_, index) => String(index + 1)),
      text: `Magnification ${MAGNIFICATIONS.join(", ")}`,
      run: (key: string) => view.magnify(MAGNIFICATIONS[Number(key) - 1] as number) }]),
    ...(layers.length ? forMaps : []),
    ...(layers.length > 1 ? forSeveral : []),
    ...(view.slide.annotations.length
      ? [{ keys: ["a"], text: "Annotations", run: () => view.outlines.toggleAll() }] : []),
    { keys: ["x"], text: "Cross-hair in the middle", run: () => view.toggleAim() },
    { keys: ["c"], text: "Copy the coordinates at the pointer or cross-hair", run: () => view.copyPlace() },
    { keys: ["u"], text: "Copy a link to this view", run: () => view.copyLink() },
    { keys: ["s"], text: "Save a picture", run: () => void view.picture() },
    { keys: ["b"], text: "Panel", run: () => view.togglePanel() },
    { keys: ["Escape"], text: "Close the classifier's answer", run: () => view.patch.close() },
  ];
}
