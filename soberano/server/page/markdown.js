// The Markdown that models write, as DOM nodes. Text only ever enters the page as text nodes: nothing a model says can
// become markup, script, or a request (images are not loaded, links open only when clicked and only over http or https).

/** An element with children; strings become text nodes. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ROW = /^\s*\|.*\|\s*$/;
const DIVIDER = /^\s*\|(?:\s*:?-+:?\s*\|)+\s*$/;

/** The nodes of a text. Every prefix of a text renders too, so it can be called while an answer streams in. */
export function render(text) {
  return blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const made = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (!line.trim()) {
      i++;
    } else if (fence) {
      const from = ++i;
      while (i < lines.length && !(lines[i].trim().startsWith(fence[1]) && !lines[i].trim().slice(fence[1].length).trim())) i++;
      made.push(code(lines.slice(from, i++).join("\n"), fence[2]));
    } else if (heading) {
      made.push(element(heading[1].length < 3 ? "h3" : "h4", {}, ...spans(heading[2])));
      i++;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      i++;
    } else if (QUOTE.test(line) && depth < 6) {
      const from = i;
      while (i < lines.length && QUOTE.test(lines[i])) i++;
      made.push(element("blockquote", {}, ...blocks(lines.slice(from, i).map((l) => QUOTE.exec(l)[1]), depth + 1)));
    } else if (ITEM.test(line) && depth < 6) {
      const from = i;
      while (i < lines.length && (ITEM.test(lines[i]) || /^\s+\S/.test(lines[i]) || (!lines[i].trim() && /^(\s+\S|\s*([-*+]|\d{1,9}[.)])\s)/.test(lines[i + 1] ?? "")))) i++;
      made.push(...list(lines.slice(from, i), depth));
    } else if (ROW.test(line) && DIVIDER.test(lines[i + 1] ?? "")) {
      const from = i;
      while (i < lines.length && ROW.test(lines[i])) i++;
      made.push(table(lines.slice(from, i)));
    } else {
      const from = i++;
      while (i < lines.length && lines[i].trim() && ![FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(lines[i]))) i++;
      made.push(paragraph(lines.slice(from, i)));
    }
  }
  return made;
}

function paragraph(lines) {
  const made = element("p");
  lines.forEach((line, i) => {
    if (i) made.append(element("br"));
    made.append(...spans(line.trim()));
  });
  return made;
}

/** One list; items that are indented deeper than its first one belong to the item above them. */
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(mark, 10);
  let i = 0;
  while (i < lines.length) {
    const item = ITEM.exec(lines[i++]);
    if (!item) continue;
    const from = i;
    while (i < lines.length && !(ITEM.test(lines[i]) && ITEM.exec(lines[i])[1].length <= indent.length)) i++;
    const inner = lines.slice(from, i);
    const margin = Math.min(...inner.filter((l) => l.trim()).map((l) => /^\s*/.exec(l)[0].length));
    made.append(element("li", {}, ...spans(item[3]), ...blocks(inner.map((l) => l.slice(margin)), depth + 1)));
    const next = ITEM.exec(lines[i] ?? "");
    if (next && /\d/.test(next[2]) !== ordered) return [made, ...list(lines.slice(i), depth)];
  }
  return [made];
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...spans(cell))));
  const head = element("thead", {}, row(lines[0], "th"));
  const body = element("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")));
  return element("div", { className: "table" }, element("table", {}, head, body));
}

function code(text, language) {
  const copy = element("button", { type: "button", className: "quiet", textContent: "Copy code" });
  copy.dataset.copy = text;
  const bar = element("div", {}, element("span", {}, language || "code"), copy);
  const pre = element("pre", { tabIndex: 0 }, element("code", {}, text));
  return element("div", { className: "code" }, bar, pre);
}

const SPAN = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)\*\*|__(?=\S)(.+?)__|\*(?=\S)([^*]+?)\*|\b_(?=\S)([^_]+?)_\b|\[([^\]]+)\]\((https?:\/\/[^\s()<>"]+(?:\([^\s()]*\)[^\s()]*)*)\)/;

function spans(text) {
  const made = [];
  for (let match; (match = SPAN.exec(text)); text = text.slice(match.index + match[0].length)) {
    const [, tick, inCode, bold, bold2, italic, italic2, label, address] = match;
    if (match.index) made.push(text.slice(0, match.index));
    if (tick) made.push(element("code", {}, inCode.trim() || inCode));
    else if (bold ?? bold2) made.push(element("strong", {}, ...spans(bold ?? bold2)));
    else if (italic ?? italic2) made.push(element("em", {}, ...spans(italic ?? italic2)));
    else made.push(element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, label));
  }
  if (text) made.push(text);
  return made;
}
