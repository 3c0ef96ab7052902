/** Numbers as the reader's language writes them, and read back in either notation. */

const language = navigator.language || "en";
const made = new Map<string, Intl.NumberFormat>();

function formatter(options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = JSON.stringify(options);
  let found = made.get(key);
  if (!found) {
    try {
      found = new Intl.NumberFormat(language, options);
    } catch {
      found = new Intl.NumberFormat("en", options); // a language tag that the browser rejects
    }
    made.set(key, found);
  }
  return found;
}

/** With exactly `digits` decimals. */
export const fixed = (value: number, digits: number): string =>
  formatter({ minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

/** With `digits` significant ones; whole from there on. */
export const short = (value: number, digits = 3): string =>
  Math.abs(value) >= 10 ** (digits - 1)
    ? fixed(value, 0)
    : formatter({ minimumSignificantDigits: digits, maximumSignificantDigits: digits }).format(value);

export const percent = (share: number): string =>
  formatter({ style: "percent", maximumSignificantDigits: 2 }).format(share);

export const probability = (p: number): string => fixed(p, 3);

/** A small area in the next smaller unit, so that it is not 0,00. */
export const area = (mm2: number): string =>
  mm2 > 0 && mm2 < 0.01
    ? `${short(mm2 * 1e6, 2)} µm²`
    : `${short(mm2, mm2 < 0.1 ? 2 : 3)} mm²`;

export const lengthUm = (um: number): string =>
  um >= 1000 ? `${short(um / 1000)} mm` : `${short(um)} µm`;

/** A length that is a round number. */
export const round = (um: number): string => {
  const plain = formatter({ maximumSignificantDigits: 3 });
  return um >= 1000 ? `${plain.format(um / 1000)} mm` : `${plain.format(um)} µm`;
};

export function duration(seconds: number): string {
  if (seconds < 60) return `${fixed(Math.max(1, seconds), 0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** "0.5", "0,5", ".5" and "50 %" are the same number; null for anything else. */
export function parse(text: string): number | null {
  const match = /^\s*([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+))\s*(%?)\s*$/.exec(text);
  if (!match) return null;
  const value = Number((match[1] as string).replace(",", "."));
  return match[2] ? value / 100 : value;
}
