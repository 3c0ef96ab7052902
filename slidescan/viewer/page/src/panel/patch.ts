/** What the patch classifier says of the 96 x 96 px around a point, beside the map's value. */

import { getPatch } from "../api";
import type { Box, PatchAnswer, Point } from "../contract";
import { h, iconButton, inWords } from "../dom";
import { fixed, probability } from "../format";
import type { State } from "../settings";

const PLACES = 7; // float32 has about as many

export class PatchPanel {
  readonly element: HTMLElement;
  private body = h("div", { role: "status", "aria-live": "polite" });
  private pending: AbortController | null = null;

  constructor(private state: State, private onBox: (box: Box | null) => void) {
    this.element = h("section", { class: "group patch", hidden: true },
      h("div", { class: "group-head" }, h("h2", {}, "Patch classifier"),
        iconButton("close", "Close", () => this.close())), this.body);
  }

  close(): void {
    this.pending?.abort();
    this.element.hidden = true;
    this.onBox(null);
  }

  async ask([x, y]: Point): Promise<void> {
    const layer = this.state.layer;
    if (!layer || x < 0 || y < 0) return;
    this.pending?.abort();
    const control = (this.pending = new AbortController());
    this.element.hidden = false;
    this.say("Asking …");
    try {
      const answer = await getPatch(layer.id, x, y, control.signal);
      this.onBox(answer.box);
      this.show(answer);
      this.element.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (control.signal.aborted) return;
      this.onBox(null);
      this.say(inWords(error));
    }
  }

  private say(text: string): void {
    this.body.replaceChildren(h("p", { class: "muted" }, text));
  }

  private show({ row, column, map_p, patch_p, difference }: PatchAnswer): void {
    const line = (name: string, p: number) =>
      h("div", { class: "pair" }, h("dt", {}, name), h("dd", { title: fixed(p, PLACES) }, probability(p)));
    const apart = Math.abs(difference);
    const size = apart < 1e-7 ? "no difference" : `${fixed(apart, PLACES)} apart`;
    this.body.replaceChildren(
      h("dl", { class: "pairs" }, line("Map", map_p), line("Patch", patch_p)),
      h("p", { class: "muted" }, `${size}; row ${row}, column ${column} of the map`));
  }
}
