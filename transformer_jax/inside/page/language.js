// Which language the page is in. A text is {en, zh}, or a plain string that is the same in both.

let current = "en";

export function setLanguage(language) {
  current = language;
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
}

export const language = () => current;

export function say(text) {
  return typeof text === "string" ? text : text[current];
}
