import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Packs each file beside itself: the agent sends the packed one and need not pack. */
function packed(): Plugin {
  let folder = "";
  return {
    name: "packed",
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
        const path = join(folder, name);
        if (statSync(path).isFile()) {
          writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
        }
      }
    },
  };
}

export default defineConfig({
  base: "/_utils/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    emptyOutDir: true,
    // No file as a data: URL, and no polyfill: the security policy allows neither.
    assetsInlineLimit: 0,
    modulePreload: false,
  },
  plugins: [packed()],
});
