/** Everything by keyboard, and the panel that says how. */

import { byId, h, iconButton } from "./dom";

export interface Command {
  keys: string[];
  text: string;
  run: (key: string) => void;
}

const NAMES: Record<string, string> = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space",
};

/** Elements that need the key themselves. */
function takesKey(target: EventTarget | null, key: string): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.matches("input[type=text], input[type=search], select, textarea")) return true;
  if (target.matches("input[type=range]")) return key.startsWith("Arrow");
  return key === "Enter" && target.matches("button, a, summary, input");
}

export class Keys {
  private commands: Command[] = [];
  private dialog = byId<HTMLDialogElement>("help");

  constructor() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (takesKey(event.target, event.key) || this.dialog.open) return;
      const found = this.commands.find(({ keys }) => keys.includes(event.key));
      if (!found) return;
      event.preventDefault();
      found.run(event.key);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  set(commands: Command[]): void {
    this.commands = [...commands, { keys: ["?"], text: "This help", run: () => this.help() }];
  }

  help(): void {
    const rows = this.commands.map(({ keys, text }) =>
      h("div", { class: "key" },
        h("dt", {}, ...keys.map((key) => h("kbd", {}, NAMES[key] ?? key))), h("dd", {}, text)));
    this.dialog.replaceChildren(
      h("div", { class: "group-head" }, h("h2", { id: "help-title" }, "Keys"),
        iconButton("close", "Close", () => this.dialog.close(), "Esc")),
      h("dl", { class: "keys" }, ...rows),
      h("p", { class: "muted" },
        "Drag or scroll to move, click to ask the patch classifier. A map's value is the ",
        "probability of tumour in the 32 × 32 px around the cell's centre, seen with the ",
        "96 × 96 px around it. Where nothing was scanned, nothing is drawn. Red stripes mark ",
        "parts of a file that cannot be read."));
    this.dialog.showModal();
  }
}
