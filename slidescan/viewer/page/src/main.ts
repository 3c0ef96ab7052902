/** Starts the page: the folder, or one slide. The URL's fragment says which. */
import "./page.css";

import { getListing, getSlide } from "./api";
import type { Listing } from "./contract";
import { byId, h, icon, iconButton, inWords, say } from "./dom";
import { folder } from "./folder";
import { Keys } from "./keys";
import { slideOf } from "./link";
import { SlideView } from "./slideview";
import { startTheme, switchTheme } from "./theme";

const main = byId("main");
const keys = new Keys();
let listing: Listing | null = null;
let view: SlideView | null = null;
let stopFolder = () => {};
let opening = 0;

function message(text: string): void {
  main.replaceChildren(h("div", { class: "page-message", role: "alert" }, h("p", {}, text),
    h("button", { type: "button", class: "chip", onclick: () => void route(true) }, "Try again")));
}

function tools(...more: Node[]): void {
  byId("bar-right").replaceChildren(...more,
    iconButton("theme", "Dark or light", switchTheme, "d"),
    iconButton("help", "Keys and help", () => keys.help(), "?"));
}

async function route(again = false): Promise<void> {
  const wanted = slideOf(location.hash);
  if (!again && view && wanted === view.slide.id) {
    view.restore(location.hash);
    return;
  }
  const turn = ++opening;
  view?.destroy();
  view = null;
  stopFolder();
  try {
    listing = await getListing();
    const only = listing.folder ? null : listing.slides[0]?.id;
    const id = wanted ?? only;
    if (id == null) return showFolder(listing);
    await showSlide(id, listing, turn);
  } catch (error) {
    if (turn === opening) message(inWords(error));
  }
}

function showFolder(listing: Listing): void {
  const { title } = listing;
  document.title = `${title} – slidescan`;
  document.body.className = "in-folder";
  byId("title").textContent = title;
  byId("bar-left").replaceChildren();
  byId("readout").replaceChildren();
  tools();
  keys.set([{ keys: ["d"], text: "Dark or light", run: switchTheme }]);
  const { element, stop } = folder(listing);
  stopFolder = stop;
  main.replaceChildren(element);
}

async function showSlide(id: string, { folder: isFolder, slides }: Listing, turn: number): Promise<void> {
  const broken = slides.find((slide) => slide.id === id && slide.state === "error");
  if (broken) throw new Error(`${broken.name}: ${broken.error ?? "the slide cannot be opened"}`);
  document.body.className = "in-slide";
  const back = h("a", { href: "#", class: "tool", "aria-label": "All slides", title: "All slides (g)" });
  back.append(icon("back"));
  byId("bar-left").replaceChildren(...(isFolder ? [back] : []));
  tools();
  main.replaceChildren(h("p", { class: "page-message" }, "Loading …"));
  const slide = await getSlide(id);
  if (turn !== opening) return;
  document.title = `${slide.name} – slidescan`;
  byId("title").textContent = slide.name;
  view = new SlideView(main, slide, location.hash);
  tools(...view.tools());
  keys.set([
    ...view.commands(),
    { keys: ["d"], text: "Dark or light", run: switchTheme },
    ...(isFolder ? [{ keys: ["g"], text: "All slides", run: () => (location.hash = "") }] : []),
  ]);
}

startTheme();
tools();
addEventListener("hashchange", () => void route());
addEventListener("unhandledrejection", (event) => say(inWords(event.reason), true));
addEventListener("error", (event) => say(event.message, true));
void route();
