/** A bar of 1, 2 or 5 times a power of ten, in um or mm; in px where the slide has no resolution. */

import { round, short } from "./format";

export interface Bar {
  px: number;
  text: string;
}

/** The longest one up to `most` CSS px; `um` is the size of a CSS px, or null. */
export function bar(um: number | null, l0: number, most = 140): Bar {
  const unit = um ?? l0;
  const power = 10 ** Math.floor(Math.log10(most * unit));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most * unit) ?? power;
  return { px: length / unit, text: um === null ? `${short(length)} px` : round(length) };
}

/** The magnification of a microscope that shows as much: 1 um/px is called 10x. */
export const magnification = (um: number): number => 10 / um;
