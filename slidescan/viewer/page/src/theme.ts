/** Dark or light: the system's choice until the reader makes one. */

const KEY = "slidescan-theme";

function stored(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage is switched off
  }
}

export function startTheme(): void {
  const theme = stored();
  if (theme === "dark" || theme === "light") document.documentElement.dataset["theme"] = theme;
}

export function switchTheme(): void {
  const { dataset } = document.documentElement;
  const dark = dataset["theme"]
    ? dataset["theme"] === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset["theme"] = dark ? "light" : "dark";
  try {
    localStorage.setItem(KEY, dataset["theme"]);
  } catch {
    // It lasts until the page is closed.
  }
}
