/** What the reader has chosen; the view is redrawn from it, and a link holds it. */

import type { ColourMap } from "./colours";
import type { MapInfo, Slide } from "./contract";

export interface Layer {
  id: string;
  shown: boolean;
  opacity: number;
  /** Values from `low` to `high` take the colours from first to last. */
  low: number;
  high: number;
  colours: ColourMap;
  threshold: number;
  /** Leave cells below the threshold transparent. */
  cut: boolean;
}

export interface Settings {
  layers: Layer[];
  /** Index of the layer that the threshold, the regions and the classifier belong to. */
  selected: number;
  /** Each map in a view of its own. */
  side: boolean;
  tissue: boolean;
  regions: boolean;
  /** Ids of the annotations that are hidden. */
  hidden: string[];
}

/** Centre in level-0 px, and screen px for a level-0 px. */
export interface Place {
  x: number;
  y: number;
  zoom: number;
}

export const MAX_SIDE = 4;

function layer(map: MapInfo, index: number): Layer {
  const threshold = map.thresholds["sens95"] ?? 0.5;
  return {
    id: map.id, shown: index === 0, opacity: 0.5, low: 0, high: 1, colours: "viridis", threshold,
    cut: true,
  };
}

export const defaults = (slide: Slide): Settings => ({
  layers: slide.maps.map(layer),
  selected: 0,
  side: false,
  tissue: false,
  regions: true,
  hidden: [],
});

type Listener = () => void;

/** The settings, with the one place where they change. */
export class State {
  private listeners: Listener[] = [];

  constructor(readonly settings: Settings) {}

  get layer(): Layer | undefined {
    return this.settings.layers[this.settings.selected];
  }

  onChange(listener: Listener): void {
    this.listeners.push(listener);
  }

  change(part: Partial<Settings>): void {
    Object.assign(this.settings, part);
    this.tell();
  }

  changeLayer(part: Partial<Layer>, index = this.settings.selected): void {
    const found = this.settings.layers[index];
    if (found) Object.assign(found, part);
    this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}
