import { defineConfig } from "vite";

// Four entries; shared/pages.asset() reads the hashed names from dist/.vite/manifest.json.
export default defineConfig({
  base: "/static/",
  build: {
    manifest: true,
    outDir: "dist",
    target: ["es2020", "chrome87", "safari14"],
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: {
      input: ["src/citizen.css", "src/citizen.ts", "src/staff.css", "src/staff.ts"],
    },
  },
});
