import { defineConfig } from "vite";

// Names without hashes: the receiver embeds these files by name and serves them uncached.
export default defineConfig({
  base: "/",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        assetFileNames: (asset) => (asset.names.some((name) => name.endsWith(".css")) ? "app.css" : "[name][extname]"),
      },
    },
  },
  // `npm run dev` shows the page of a receiver that runs beside it, or of the one that RONCHI_URL names.
  server: {
    proxy: Object.fromEntries(["/api", "/metrics"].map((path) => [path, { target: process.env["RONCHI_URL"] ?? "http://127.0.0.1:8600", ws: true }])),
  },
});
