/** The slides of a folder, with their maps and scores. */

import type { Listing, SlideSummary } from "./contract";
import { h } from "./dom";
import { area, probability } from "./format";
import { slideLink } from "./link";

const ORDERS: Record<string, (a: SlideSummary, b: SlideSummary) => number> = {
  "highest value": (a, b) => highest(b) - highest(a),
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};

const highest = ({ maps }: SlideSummary) => Math.max(-1, ...maps.map((map) => map.highest ?? -1));

export function folder({ slides }: Listing): HTMLElement {
  const cards = h("ul", { class: "cards" });
  const count = h("span", { class: "muted", role: "status" });
  const search = h("input", { type: "search", placeholder: "Name", "aria-label": "Show names with" });
  const order = h("select", { "aria-label": "Sort by" },
    ...Object.keys(ORDERS).map((name) => h("option", { value: name }, `Sort by ${name}`)));
  const show = () => {
    const text = search.value.trim().toLocaleLowerCase();
    const found = slides.filter(({ name }) => name.toLocaleLowerCase().includes(text));
    found.sort(ORDERS[order.value]);
    count.textContent = found.length === 1 ? "1 slide" : `${found.length} slides`;
    cards.replaceChildren(...found.map(card));
  };
  search.addEventListener("input", show);
  order.addEventListener("change", show);
  show();
  const empty = h("p", { class: "page-message" }, "There is no slide in this folder.");
  return h("div", { class: "folder" },
    h("div", { class: "folder-head" }, search, order, count), slides.length ? cards : empty);
}

function card(slide: SlideSummary): HTMLElement {
  const { id, name, state, error, thumbnail, maps } = slide;
  const picture = thumbnail
    ? h("img", { src: thumbnail, alt: "", loading: "lazy" })
    : h("span", { class: "muted" }, "No picture");
  const lines = state === "error"
    ? [h("p", { class: "error" }, error ?? "The slide cannot be opened.")]
    : maps.length
      ? maps.map((map) => h("p", {}, h("strong", {}, map.highest === null ? "–" : probability(map.highest)),
          h("span", { class: "muted" }, ` ${map.name}`),
          map.tissue_mm2 === null ? null : h("span", { class: "muted" }, `, ${area(map.tissue_mm2)} tissue`),
          map.complete ? null : h("span", { class: "tag" }, "being scanned")))
      : [h("p", { class: "muted" }, "No map")];
  const content = [h("div", { class: "picture" }, picture), h("h2", {}, name), ...lines];
  return h("li", {}, state === "error"
    ? h("div", { class: "card" }, ...content)
    : h("a", { class: "card", href: slideLink(id) }, ...content));
}
