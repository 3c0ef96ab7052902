/** Sliders and check boxes. */

import { h } from "./dom";
import { fixed, parse } from "./format";

export interface Slider {
  element: HTMLElement;
  input: HTMLInputElement;
  set: (value: number) => void;
}

interface SliderOptions {
  label: string;
  step: number;
  digits: number;
  /** While it moves. */
  onInput: (value: number) => void;
  /** When it has come to rest. */
  onDone?: (value: number) => void;
  hint?: string;
}

/** A slider from 0 to 1 and a field that takes 0.5 as well as 0,5. */
export function slider({ label, step, digits, onInput, onDone, hint }: SliderOptions): Slider {
  const input = h("input", { type: "range", min: 0, max: 1, step, "aria-label": label });
  const field = h("input", {
    type: "text", inputmode: "decimal", class: "number", "aria-label": `${label}, number`,
    autocomplete: "off", spellcheck: "false",
  });
  let current = 0;
  const set = (value: number) => {
    current = value;
    input.value = String(value);
    input.style.setProperty("--share", String(value));
    input.setAttribute("aria-valuetext", fixed(value, digits));
    if (document.activeElement !== field) field.value = fixed(value, digits);
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    onInput(current);
  });
  input.addEventListener("change", () => onDone?.(current));
  const take = () => {
    const value = parse(field.value);
    const valid = value !== null && value >= 0 && value <= 1;
    field.setAttribute("aria-invalid", String(!valid));
    if (!valid) return;
    set(value);
    onInput(value);
  };
  field.addEventListener("input", take);
  field.addEventListener("change", () => {
    field.value = fixed(current, digits);
    field.removeAttribute("aria-invalid");
    onDone?.(current);
  });
  field.addEventListener("keydown", ({ key }) => {
    if (key === "Enter") input.focus(); // so that the page's keys work again
  });
  const element = h("div", { class: "slider", title: hint },
    h("span", { class: "slider-label" }, label), input, field);
  return { element, input, set };
}

export interface Check {
  element: HTMLElement;
  set: (on: boolean) => void;
}

export function check(label: string, onChange: (on: boolean) => void, colour?: string): Check {
  const input = h("input", { type: "checkbox" });
  input.addEventListener("change", () => onChange(input.checked));
  const swatch = colour ? h("span", { class: "swatch", "aria-hidden": "true" }) : null;
  if (swatch && colour) swatch.style.background = colour;
  const element = h("label", { class: "check" }, input, swatch, h("span", {}, label));
  return { element, set: (on) => (input.checked = on) };
}
