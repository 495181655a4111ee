// Pure functions: a file's text into chunks. A unit is [start, end] in the text, with where it belongs.

// Lines with their places: {start, end, text}. The end includes the line break.
function linesOf(text) {
  return [...text.matchAll(/[^\n]*(?:\n|$)/g)]
    .filter(([line]) => line !== "")
    .map((match) => ({ start: match.index, end: match.index + match[0].length, text: match[0].trimEnd() }));
}

// Paragraphs, and the headings of Markdown: {start, end, titles, section, isHeading, isCode}. Lines inside a fence
// separate nothing.
function paragraphsOf(text, isMarkdown) {
  const found = [];
  let [fence, open, path, section] = ["", null, [], 0];
  const close = () => {
    if (open) found.push(open);
    open = null;
  };
  for (const line of linesOf(text)) {
    const mark = isMarkdown ? (/^ {0,3}(`{3,}|~{3,})/.exec(line.text)?.[1] ?? "") : "";
    const heading = isMarkdown && !fence ? /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$/.exec(line.text) : null;
    if (heading) {
      close();
      section += 1;
      path = [...path.filter(([level]) => level < heading[1].length), [heading[1].length, heading[2]]];
      found.push({ ...placeOf(line), titles: path.map(([, title]) => title), section, isHeading: true, isCode: false });
      continue;
    }
    if (line.text.trim() === "" && !fence) {
      close();
      continue;
    }
    open ??= {
      ...placeOf(line),
      titles: path.map(([, title]) => title),
      section,
      isHeading: false,
      isCode: mark !== "",
    };
    open.end = line.end;
    if (!fence) fence = mark;
    else if (mark.startsWith(fence)) fence = "";
  }
  close();
  return found;
}

const placeOf = ({ start, end }) => ({ start, end });

const SENTENCES = Intl.Segmenter ? new Intl.Segmenter(undefined, { granularity: "sentence" }) : null;

const MAX_UNIT = 5_000; // code units; far above any sentence, but not above what lines without an end may have

// The smallest units that are kept whole if they fit: sentences, lines of code, headings. Yields often.
function* unitsOf(text, isMarkdown) {
  const units = [];
  for (const [index, paragraph] of paragraphsOf(text, isMarkdown).entries()) {
    for (const [from, to] of shorterParts(text, paragraph.start, paragraph.end)) {
      const written = text.slice(from, to);
      const parts = paragraph.isCode ? linesOf(written).map(({ start, end }) => [start, end]) : sentencesOf(written);
      for (const [start, end] of parts)
        units.push({ ...paragraph, paragraph: index, start: from + start, end: from + end });
      yield;
    }
  }
  return units;
}

// Parts of at most MAX_UNIT, cut after a space if there is one, and never inside a character.
function shorterParts(text, start, end) {
  const parts = [];
  let from = start;
  while (end - from > MAX_UNIT) {
    const space = text.lastIndexOf(" ", from + MAX_UNIT - 1);
    let cut = space > from ? space + 1 : from + MAX_UNIT;
    if (/[\uDC00-\uDFFF]/.test(text[cut])) cut -= 1;
    parts.push([from, cut]);
    from = cut;
  }
  return [...parts, [from, end]];
}

function sentencesOf(written) {
  const flat = written.replace(/\n(?=[^\n])/g, " "); // a line break inside a paragraph ends no sentence
  const found = SENTENCES
    ? [...SENTENCES.segment(flat)].map(({ index, segment }) => [index, segment])
    : [...flat.matchAll(/[^.!?…]+[.!?…]*\s*|[.!?…]+\s*/g)].map((match) => [match.index, match[0]]); // an older browser
  return found.map(([start, sentence]) => [start, start + sentence.length]);
}

// A unit that is too long, as several: cut before a token, if possible one that starts a word. `starts`: where each
// token starts in the unit, in code units.
function cutUnit(unit, text, starts, limit) {
  const parts = [];
  let first = 0;
  while (first < starts.length) {
    let last = Math.min(first + limit, starts.length);
    if (last < starts.length) {
      const word = [...Array(last - first).keys()]
        .map((back) => last - back)
        .find((place) => startsWord(unit, text, starts[place]));
      last = word ?? last;
    }
    const start = first === 0 ? unit.start : unit.start + starts[first];
    const end = last === starts.length ? unit.end : unit.start + starts[last];
    parts.push({ ...unit, start, end, count: last - first });
    first = last;
  }
  return parts;
}

const startsWord = (unit, text, start) => start > 0 && /\s/.test(text[unit.start + start - 1]);

const SEPARATES = {
  heading: (before, unit) => before.section !== unit.section,
  paragraph: (before, unit) => before.paragraph !== unit.paragraph && !before.isHeading,
  sentence: () => false,
};

// Chunks of whole units with at most `limit` tokens: {text, titles, count}. `by` says what always starts a new one:
// "heading", "paragraph", or with "sentence" nothing but the limit.
function packed(units, text, by, limit) {
  const groups = [];
  let count = 0;
  for (const unit of units) {
    const group = groups.at(-1);
    if (!group || SEPARATES[by](group.at(-1), unit) || count + unit.count > limit) {
      groups.push([unit]);
      count = unit.count;
    } else {
      group.push(unit);
      count += unit.count;
    }
  }
  return groups
    .map((group) => ({
      text: text.slice(group[0].start, group.at(-1).end).trim(),
      titles: group[0].titles,
      count: group.reduce((sum, unit) => sum + unit.count, 0),
    }))
    .filter((chunk) => chunk.text !== "");
}

// Groups of consecutive texts with at most so many characters and texts each, for requests: [from, to].
function batchesOf(lengths, maxCharacters, maxTexts) {
  const batches = [];
  let size = 0;
  lengths.forEach((length, index) => {
    const batch = batches.at(-1);
    if (!batch || size + length > maxCharacters || index - batch[0] >= maxTexts) {
      batches.push([index, index + 1]);
      size = length;
    } else {
      batch[1] = index + 1;
      size += length;
    }
  });
  return batches;
}
