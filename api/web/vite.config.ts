import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

/** Puts each asset beside itself as `.br` and `.gz`: it is packed once, and well, rather than at every request. */
function precompress(): Plugin {
  const packers = {
    br: (data: Uint8Array) =>
      promisify(brotliCompress)(data, { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } }),
    gz: (data: Uint8Array) => promisify(gzip)(data, { level: constants.Z_BEST_COMPRESSION }),
  };
  return {
    name: "precompress",
    apply: "build",
    async generateBundle(_, bundle) {
      for (const file of Object.values(bundle)) {
        if (!file.fileName.startsWith("assets/")) continue;
        const data = Buffer.from(file.type === "chunk" ? file.code : file.source);
        for (const [ending, pack] of Object.entries(packers))
          this.emitFile({ type: "asset", fileName: `${file.fileName}.${ending}`, source: await pack(data) });
      }
    },
  };
}

export default defineConfig({
  base: "./", // wherever the API serves it
  plugins: [precompress()],
  build: { target: "es2022", modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  test: { testTimeout: 60_000 }, // a busy machine, and every byte of a stream
});
