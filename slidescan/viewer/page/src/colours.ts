/** Even colour maps that colour-blind people can read; turbo and jet are neither. */

import {
  interpolateCividis, interpolateInferno, interpolateMagma, interpolatePlasma, interpolateViridis,
} from "d3-scale-chromatic";

const SCALES = {
  viridis: interpolateViridis,
  cividis: interpolateCividis,
  inferno: interpolateInferno,
  magma: interpolateMagma,
  plasma: interpolatePlasma,
};
export type ColourMap = keyof typeof SCALES;
export const COLOUR_MAPS = Object.keys(SCALES) as ColourMap[];

const STEPS = 1024;
const tables = new Map<ColourMap, Uint32Array>();

/** [red, green, blue] of "#rrggbb" or "rgb(r, g, b)". */
function channels(css: string): [number, number, number] {
  const hex = /^#(..)(..)(..)$/.exec(css)?.slice(1).map((part) => parseInt(part, 16));
  const [red, green, blue] = hex ?? (css.match(/\d+/g) ?? []).map(Number);
  return [red ?? 0, green ?? 0, blue ?? 0];
}

/** Opaque colours of 0 to 1 as the little-endian words of ImageData. */
export function table(name: ColourMap): Uint32Array {
  let found = tables.get(name);
  if (!found) {
    found = Uint32Array.from({ length: STEPS }, (_, step) => {
      const [red, green, blue] = channels(SCALES[name](step / (STEPS - 1)));
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    tables.set(name, found);
  }
  return found;
}

/** Index into a table of a value in the window from `low` to `high`; values outside are clamped. */
export function step(value: number, low: number, high: number): number {
  const share = (value - low) / Math.max(high - low, 1e-6);
  return Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1));
}

/** The CSS colour of a value, and of the whole map as a gradient. */
export const colourOf = (name: ColourMap, share: number): string => SCALES[name](share);
export const gradient = (name: ColourMap): string =>
  `linear-gradient(90deg,${[0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1].map(SCALES[name]).join()})`;
