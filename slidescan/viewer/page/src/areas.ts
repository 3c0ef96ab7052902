/** How much of a map lies at or above a threshold, from its histogram. */

import type { Histogram } from "./contract";

export class Areas {
  private above: Float64Array;

  constructor(readonly histogram: Histogram, private cellMm2: number) {
    const { counts } = histogram;
    this.above = new Float64Array(counts.length + 1);
    for (let bin = counts.length - 1; bin >= 0; bin--)
      this.above[bin] = (this.above[bin + 1] as number) + (counts[bin] as number);
  }

  get totalMm2(): number {
    return (this.above[0] as number) * this.cellMm2;
  }

  /** Within a bin, cells count in proportion: bins are 0.001 wide. */
  mm2(threshold: number): number {
    const bins = this.histogram.counts.length;
    const place = Math.min(Math.max(threshold, 0), 1) * bins;
    const nearest = Math.round(place);
    if (Math.abs(place - nearest) < 1e-6) return (this.above[nearest] as number) * this.cellMm2;
    const bin = Math.floor(place);
    const [from, to] = [this.above[bin] as number, this.above[bin + 1] as number];
    return (from + (to - from) * (place - bin)) * this.cellMm2;
  }
}
