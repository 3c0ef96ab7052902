/** The slides of a folder, with their maps and scores. */

import { getListing, request } from "./api";
import type { Listing, SlideSummary } from "./contract";
import { h, inWords } from "./dom";
import { area, probability } from "./format";
import { slideLink } from "./link";

const ORDERS: Record<string, (a: SlideSummary, b: SlideSummary) => number> = {
  "highest value": (a, b) => highest(b) - highest(a),
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};

const highest = ({ maps }: SlideSummary) => Math.max(-1, ...maps.map((map) => map.highest ?? -1));

const AGAIN_MS = 4000;

/** The list, which asks again while scores are computed or maps are being scanned. */
export function folder({ slides, warnings = [] }: Listing): { element: HTMLElement; stop: () => void } {
  let timer = 0;
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
  const refresh = async () => {
    try {
      const { slides: now } = await getListing();
      if (JSON.stringify(now) !== JSON.stringify(slides)) {
        slides = now;
        const focused = document.activeElement?.getAttribute("href");
        show();
        if (focused) cards.querySelector<HTMLElement>(`a[href="${CSS.escape(focused)}"]`)?.focus();
      }
    } catch {
      // A slide that is opened says what is wrong.
    }
    if (slides.some(unsettled)) timer = window.setTimeout(refresh, AGAIN_MS);
  };
  if (slides.some(unsettled)) timer = window.setTimeout(refresh, AGAIN_MS);
  search.addEventListener("input", show);
  order.addEventListener("change", show);
  show();
  const empty = h("p", { class: "page-message" }, "There is no slide in this folder.");
  const element = h("div", { class: "folder" },
    h("div", { class: "folder-head" }, search, order, count),
    ...warnings.map((text) => h("p", { class: "folder-warning error" }, text)),
    slides.length ? cards : empty);
  return { element, stop: () => clearTimeout(timer) };
}

const unsettled = ({ state, maps }: SlideSummary) =>
  state === "ok" && maps.some(({ complete, highest: p }) => !complete || p === null);

const none = () => h("span", { class: "muted" }, "No picture");

/** Why slides cannot be opened, by id; the list is drawn anew when a score arrives. */
const reasons = new Map<string, string>();

/** A slide is opened for its thumbnail: say why it cannot be. */
async function explain(id: string, picture: HTMLElement, url: string): Promise<void> {
  const place = picture.closest(".card");
  picture.replaceWith(none());
  try {
    await request(url);
  } catch (error) {
    reasons.set(id, inWords(error));
    place?.append(h("p", { class: "error" }, inWords(error)));
  }
}

function card(slide: SlideSummary): HTMLElement {
  const { id, name, state, error, thumbnail, maps } = slide;
  const picture = thumbnail && !reasons.has(id) ? h("img", { src: thumbnail, alt: "", loading: "lazy" }) : none();
  picture.addEventListener("error", () => void explain(id, picture, thumbnail ?? ""));
  const lines = state === "error"
    ? [h("p", { class: "error" }, error ?? "The slide cannot be opened.")]
    : maps.length
      ? maps.map((map) => h("p", {}, h("strong", {}, map.highest === null ? "…" : probability(map.highest)),
          h("span", { class: "muted" }, ` ${map.name}`),
          map.tissue_mm2 === null ? null : h("span", { class: "muted" }, `, ${area(map.tissue_mm2)} tissue`),
          map.complete ? null : h("span", { class: "tag" }, "being scanned")))
      : [h("p", { class: "muted" }, "No map")];
  const reason = reasons.get(id);
  if (reason) lines.push(h("p", { class: "error" }, reason));
  const content = [h("div", { class: "picture" }, picture), h("h2", {}, name), ...lines];
  return h("li", {}, state === "error"
    ? h("div", { class: "card" }, ...content)
    : h("a", { class: "card", href: slideLink(id) }, ...content));
}
