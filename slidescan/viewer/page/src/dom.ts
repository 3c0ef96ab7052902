/** Elements, icons and short messages. */

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | EventListener | undefined>;

/** `h("button", { class: "tool", onclick: ... }, "Text")`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  name: K, attributes: Attributes = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => !!child));
  return element;
}

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found as T;
}

/** Paths in a box of 24, drawn as lines. */
const ICONS = {
  back: "M15 5l-7 7 7 7",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 16.5a3.5 3.5 0 100-7 3.5 3.5 0 000 7z",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M12 3v4M12 17v4M3 12h4M17 12h4M12 16a4 4 0 100-8 4 4 0 000 8z",
  down: "M6 9l6 6 6-6",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 15a3 3 0 100-6 3 3 0 000 6z",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  help: "M9 9a3 3 0 115 2.2c-1.2.9-2 1.4-2 2.8M12 17.5v.5",
  hidden: "M3 3l18 18M10 5.3A10 10 0 0112 5c6 0 10 7 10 7a18 18 0 01-3 3.6M6.5 7A18 18 0 002 12s4 7 10 7a10 10 0 004-.9",
  layers: "M12 3l9 5-9 5-9-5zM3 13l9 5 9-5",
  link: "M10 14a4 4 0 006 0l3-3a4 4 0 00-6-6l-1 1M14 10a4 4 0 00-6 0l-3 3a4 4 0 006 6l1-1",
  panel: "M4 5h16v14H4zM14 5v14",
  side: "M4 5h16v14H4zM12 5v14",
  theme: "M12 4a8 8 0 100 16zM12 4a8 8 0 010 16",
} as const;
export type IconName = keyof typeof ICONS;

export function icon(name: IconName): SVGSVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; `label` is its name for a screen reader and its tooltip. */
export function iconButton(name: IconName, label: string, onclick: () => void, key?: string) {
  const title = key ? `${label} (${key})` : label;
  return h("button", { class: "tool", type: "button", title, "aria-label": label, onclick }, icon(name));
}

let fading = 0;

/** Say something for a few seconds, to a screen reader as well. */
export function say(text: string, error = false): void {
  const toast = byId("toast");
  toast.textContent = text;
  toast.classList.toggle("error", error);
  toast.classList.add("shown");
  clearTimeout(fading);
  fading = window.setTimeout(() => toast.classList.remove("shown"), error ? 8000 : 2500);
}

/** What went wrong, for people. */
export const inWords = (error: unknown): string =>
  error instanceof Error && error.message ? error.message : String(error);
