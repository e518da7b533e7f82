// Colours that readers with any colour vision can tell: blue to orange, and light to blue.

const SCALES = {
  light: {
    signed: [[33, 94, 158], [250, 249, 246], [190, 95, 6]],
    weight: [[250, 249, 246], [120, 170, 214], [17, 72, 132]],
  },
  dark: {
    signed: [[110, 184, 245], [27, 31, 37], [250, 170, 80]],
    weight: [[27, 31, 37], [38, 100, 160], [160, 212, 255]],
  },
};

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** [r, g, b] of a value from -1 to 1 ("signed") or from 0 to 1 ("weight"). */
export function colour(scale, value, shade = theme()) {
  const stops = SCALES[shade][scale];
  const along = Math.min(1, Math.max(0, scale === "signed" ? (value + 1) / 2 : value)) * 2;
  const first = Math.min(1, Math.floor(along));
  return stops[first].map((c, n) => Math.round(c + (along - first) * (stops[first + 1][n] - c)));
}

/** Black or white, whichever is easier to read on [r, g, b]. */
export function ink([r, g, b]) {
  const linear = [r, g, b].map((c) => (c / 255) ** 2.2);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return luminance > 0.2 ? "#14171a" : "#ffffff";
}

export const css = (rgb) => `rgb(${rgb.join(" ")})`;
