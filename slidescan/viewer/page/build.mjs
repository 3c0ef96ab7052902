// Bundles the page into ../static: index.html, page.js, page.css, icon.svg, licences.txt.
import { build } from "esbuild";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = fileURLToPath(new URL("../static/", import.meta.url));

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.ts" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome111", "firefox113", "safari16.4"],
  legalComments: "none", // licences.txt holds them, whole
  metafile: true,
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) await copyFile(here + name, out + name);
await writeFile(out + "licences.txt", await licences(Object.keys(metafile.inputs)));
const sizes = Object.entries(metafile.outputs).map(([name, { bytes }]) => `${name} ${bytes}`);
console.log(sizes.join("\n"));

/** The licences of the packages that the bundle holds. */
async function licences(inputs) {
  const found = inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  const parts = [];
  for (const name of [...new Set(found.filter(Boolean))].sort()) {
    const folder = `${here}node_modules/${name}/`;
    const { version, license, homepage } = JSON.parse(await readFile(folder + "package.json"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} has no licence file`);
    const text = (await readFile(folder + file, "utf8")).trim();
    parts.push(`${name} ${version} (${license}), ${homepage}\n\n${text}\n`);
  }
  const title = "The page of `slidescan view` contains these libraries:\n";
  return [title, ...parts].join(`\n${"-".repeat(80)}\n\n`);
}
