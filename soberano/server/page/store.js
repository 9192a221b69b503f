// What the page remembers: the conversation and the settings in localStorage, the API key for as long as the tab lives.

const CHAT = "soberano.chat";
const SETTINGS = "soberano.settings";
const KEY = "soberano.key";

function read(storage, name, otherwise) {
  try {
    return JSON.parse(storage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // private windows and full disks must not stop a conversation
  }
}

function write(storage, name, value) {
  try {
    storage.setItem(name, JSON.stringify(value));
  } catch {
    // as above: then it is forgotten on reload
  }
}

export const store = {
  messages: () => read(localStorage, CHAT, []).filter((m) => typeof m?.content === "string" && ["user", "assistant"].includes(m.role)),
  saveMessages: (messages) => write(localStorage, CHAT, messages),
  settings: () => read(localStorage, SETTINGS, {}),
  saveSettings: (settings) => write(localStorage, SETTINGS, settings),
  key: () => read(sessionStorage, KEY, ""),
  saveKey: (key) => write(sessionStorage, KEY, key),
};
