(() => {
  "use strict";
  const id = (name) => document.getElementById(name);
  const make = (element, words = "", classes = "") => {
    const made = document.createElement(element);
    made.textContent = words;
    if (classes) made.className = classes;
    return made;
  };
  const { plots, heat } = JSON.parse(id("data").textContent);
  const root = document.documentElement;
  const tip = id("tip");
  const said = id("said");
  root.classList.add("scripted");

  // The theme: what the system asks for, until the button is pressed.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = id("theme");
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const redraws = [];
  const themed = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    redraws.forEach((draw) => draw());
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  dark.addEventListener("change", themed);

  // What is pointed at, by the pointer or by the keyboard.
  const show = (title, pairs, x, y) => {
    const list = make("dl");
    for (const [name, value] of pairs) list.append(make("dt", name), make("dd", value));
    tip.replaceChildren(...(title ? [make("strong", title)] : []), list);
    tip.hidden = false;
    tip.style.left = tip.style.top = "0px"; // at the right edge it would be measured narrow and tall
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width < root.clientWidth - 8 ? x + 14 : x - 14 - box.width;
    const top = y + 14 + box.height < innerHeight - 8 ? y + 14 : y - 14 - box.height;
    tip.style.left = `${Math.max(8, Math.min(left, root.clientWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  let follow = null; // puts the numbers beside the value in focus again, when the page scrolls
  const hide = () => {
    tip.hidden = true;
    follow = null;
  };
  const say = (title, pairs) => {
    said.textContent = [title, ...pairs.map((pair) => pair.join(" "))].filter(Boolean).join(", ");
  };
  addEventListener("scroll", () => (follow ? follow() : hide()), { passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());

  const pairsOf = (plot, row) => {
    const table = id(plot.table);
    const titles = [...table.tHead.rows[0].cells];
    return [...table.tBodies[0].rows[row].cells]
      .map((cell, place) => [titles[place].textContent, cell.textContent.trim(), place])
      .filter(([, value, place]) => value && value !== "\u2013" && (!plot.columns || place < plot.fixed || plot.columns.includes(place)))
      .map(([name, value]) => [name, value]);
  };

  for (const [name, plot] of Object.entries(plots)) {
    const box = id(name);
    if (!box || !plot.stops.length) continue;
    const dot = make("div", "", "dot");
    let current = plot.stops.length - 1;
    dot.hidden = true;
    box.append(dot);
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-roledescription", "chart");
    box.setAttribute("aria-label", `${box.getAttribute("aria-label")}. Arrow keys go from value to value.`);
    const drawing = () => [...box.querySelectorAll("svg.plot")].find((one) => getComputedStyle(one).display !== "none");
    const placing = () => {
      const along = id("by-time")?.checked ? 2 : 1;
      const high = id("logarithmic")?.checked ? 4 : 3;
      const inner = drawing().getBoundingClientRect();
      return (stop) => [inner.left + (stop[along] / 1000) * inner.width, inner.top + stop[high], stop[along] >= 0];
    };
    const point = (number, aloud) => {
      current = number;
      const [x, y] = placing()(plot.stops[number]);
      const outer = box.getBoundingClientRect();
      dot.style.left = `${x - outer.left}px`;
      dot.style.top = `${y - outer.top}px`;
      dot.hidden = false;
      const pairs = pairsOf(plot, plot.stops[number][0]);
      show("", pairs, x, y);
      if (!aloud) return;
      follow = () => point(current, false);
      say("", pairs);
    };
    const leave = () => {
      dot.hidden = true;
      hide();
    };
    box.addEventListener("pointermove", (event) => {
      let nearest = -1;
      let least = 60 * 60;
      const place = placing();
      plot.stops.forEach((stop, number) => {
        const [x, y, known] = place(stop);
        const far = (x - event.clientX) ** 2 + ((y - event.clientY) / 2) ** 2;
        if (known && far < least) [nearest, least] = [number, far];
      });
      if (nearest >= 0) point(nearest, false);
      else leave();
    });
    box.addEventListener("pointerleave", leave);
    box.addEventListener("focus", () => box.matches(":focus-visible") && point(current, true));
    box.addEventListener("blur", leave);
    box.addEventListener("keydown", (event) => {
      const last = plot.stops.length - 1;
      const next = { ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: current - 1, ArrowDown: current + 1, Home: 0, End: last, PageUp: current - 10, PageDown: current + 10 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      point(Math.max(0, Math.min(last, next)), true);
    });
  }

  // The heat map: a byte a cell.
  const [UNKNOWN, UNMOVED, LEAST, MOST, DEAD, INFINITE, NAN] = [0, 1, 2, 251, 252, 253, 254];
  const HEIGHT = 18;
  const drawHeat = () => {
    const cells = Uint8Array.from(atob(heat.cells), (one) => one.charCodeAt(0));
    const width = heat.columns.length;
    const canvas = id("heat-cells");
    const scroll = id("heat-scroll");
    const names = id("heat-names");
    const foot = id("heat-foot");
    const unfold = id("unfold");
    const cursor = make("div", "", "heat-cell");
    const members = new Map();
    heat.blocks.forEach((block, row) => members.set(block, [...(members.get(block) || []), row]));
    const open = new Set(heat.rows.length <= 40 ? members.keys() : []);
    let lines = [];
    let cellWidth = 6;
    let at = [0, width - 1];
    id("heat").hidden = false;
    unfold.hidden = members.size === heat.rows.length;
    cursor.hidden = true;
    scroll.append(cursor);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "heat map");
    canvas.setAttribute("aria-label", "Change of the norm of each tensor, a column for each checkpoint. Arrow keys go from cell to cell.");

    const code = (rows, column) => Math.max(...rows.map((row) => cells[row * width + column]));
    const percent = (byte) => {
      const change = heat.low * (heat.high / heat.low) ** ((byte - LEAST) / (MOST - LEAST)) * 100;
      return `about ${change >= 1e-4 ? Number(change.toPrecision(2)).toLocaleString("en") : change.toExponential(0).replace("-", "\u2212")} %`;
    };
    const meaning = (byte, row, column) => {
      const counts = row === undefined ? undefined : heat.counts[row * width + column];
      const counted = counts && [[counts[0], "NaN"], [counts[1], "Inf"]].filter((one) => one[0]).map((one) => `${one[0].toLocaleString("en")} ${one[1]}`).join(", ");
      if (byte === NAN || byte === INFINITE) return counted || (byte === NAN ? "NaN inside" : "Inf inside");
      if (byte === DEAD) return "dead: all values equal";
      if (byte === UNKNOWN) return "no value before";
      return byte === UNMOVED ? "0 %" : percent(byte);
    };

    const layOut = () => {
      lines = [];
      for (const [block, rows] of members) {
        if (rows.length === 1) lines.push({ label: heat.rows[rows[0]], rows });
        else {
          lines.push({ label: block, rows, block });
          if (open.has(block)) rows.forEach((row) => lines.push({ label: heat.rows[row], rows: [row], within: block }));
        }
      }
      names.replaceChildren(...lines.map((line) => {
        const item = make("li", "", line.within ? "within" : "");
        const label = line.within && line.label.startsWith(`${line.within}.`) ? line.label.slice(line.within.length + 1) : line.label;
        item.title = line.label;
        if (line.block === undefined) item.append(make("bdi", label));
        else {
          const button = make("button");
          button.type = "button";
          button.setAttribute("aria-expanded", open.has(line.block));
          button.append(make("bdi", `${label} (${line.rows.length})`));
          button.addEventListener("click", () => {
            if (!open.delete(line.block)) open.add(line.block);
            layOut();
            [...names.querySelectorAll("button")].find((one) => one.parentNode.title === line.label).focus();
          });
          item.append(button);
        }
        return item;
      }));
      unfold.textContent = open.size ? "Fold all" : "Unfold all";
      cursor.hidden = true;
      draw();
    };

    const draw = () => {
      const room = scroll.clientWidth;
      cellWidth = Math.max(6, Math.min(96, Math.floor(room / width)));
      const [wide, high] = [cellWidth * width, HEIGHT * lines.length];
      const sharp = Math.min(devicePixelRatio || 1, 16000 / Math.max(wide, high));
      canvas.width = Math.round(wide * sharp);
      canvas.height = Math.round(high * sharp);
      canvas.style.width = `${wide}px`;
      canvas.style.height = `${high}px`;
      const pen = canvas.getContext("2d");
      pen.scale(sharp, sharp);
      const shades = [...id("heat-ramp").querySelectorAll("rect")].map((one) => getComputedStyle(one).fill);
      const [nan, dead, none] = ["nan", "dead", "none"].map((one) => getComputedStyle(document.querySelector(`.sign-${one}`)));
      const gap = cellWidth > 8 ? 1 : 0.5;
      lines.forEach((line, row) => {
        for (let column = 0; column < width; column++) {
          const byte = code(line.rows, column);
          const [x, y, w, h] = [column * cellWidth, row * HEIGHT + 0.5, cellWidth - gap, HEIGHT - 1];
          const [cx, cy] = [x + w / 2, y + h / 2];
          pen.lineWidth = 1;
          if (byte === UNKNOWN) {
            pen.fillStyle = none.color;
            pen.fillRect(cx - 1, cy - 1, 2, 2);
          } else if (byte >= INFINITE) {
            pen.fillStyle = nan.backgroundColor;
            pen.fillRect(x, y, w, h);
            pen.strokeStyle = nan.color;
            pen.lineWidth = 1.5;
            const arm = Math.min(4, w / 2 - 1);
            pen.beginPath();
            pen.moveTo(cx - arm, cy - arm);
            pen.lineTo(cx + arm, cy + arm);
            pen.moveTo(cx + arm, cy - arm);
            pen.lineTo(cx - arm, cy + arm);
            pen.stroke();
          } else if (byte === DEAD) {
            pen.save();
            pen.beginPath();
            pen.rect(x, y, w, h);
            pen.clip();
            pen.strokeStyle = dead.color;
            for (let from = x - h; from < x + w; from += 5) {
              pen.beginPath();
              pen.moveTo(from, y + h);
              pen.lineTo(from + h, y);
              pen.stroke();
            }
            pen.restore();
          } else {
            const [low, high] = heat.shaded.map(Math.log);
            const change = Math.log(heat.low) + ((byte - LEAST) / (MOST - LEAST)) * Math.log(heat.high / heat.low);
            const part = byte === UNMOVED ? 0 : (change - low) / (high - low);
            pen.fillStyle = shades[Math.max(0, Math.min(shades.length - 1, Math.floor(part * shades.length)))];
            pen.fillRect(x, y, w, h);
          }
        }
      });
      const longest = Math.max(...heat.columns.map((one) => one[2].length));
      const every = Math.max(1, Math.ceil((longest * 7 + 12) / cellWidth));
      foot.style.width = `${wide}px`;
      foot.replaceChildren(...heat.columns.flatMap(([, , index], column) => {
        if (column % every || !index || (column && (column + 0.5) * cellWidth > wide - 10)) return [];
        const named = make("span", index);
        named.style.left = `${Math.max(8, (column + 0.5) * cellWidth)}px`;
        return [named];
      }));
    };

    const point = (row, column, aloud) => {
      at = [Math.max(0, Math.min(lines.length - 1, row)), Math.max(0, Math.min(width - 1, column))];
      const line = lines[at[0]];
      Object.assign(cursor.style, { left: `${at[1] * cellWidth}px`, top: `${at[0] * HEIGHT}px`, width: `${cellWidth}px`, height: `${HEIGHT}px` });
      cursor.hidden = false;
      if (aloud) cursor.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
      const [name, where] = heat.columns[at[1]];
      const byte = code(line.rows, at[1]);
      const row_ = line.rows.length === 1 ? line.rows[0] : line.rows.find((one) => cells[one * width + at[1]] === byte);
      const pairs = [["Checkpoint", name], ["Saved at", where], ["Change of the norm", meaning(byte, row_, at[1])]];
      if (line.rows.length > 1 && byte > UNMOVED) pairs.push(["In", heat.rows[row_]]);
      const box = cursor.getBoundingClientRect();
      show(line.label, pairs, box.right, box.bottom);
      if (!aloud) return;
      follow = () => point(...at, false);
      say(line.label, pairs);
    };
    const leave = () => {
      cursor.hidden = true;
      hide();
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      point(Math.floor((event.clientY - box.top) / HEIGHT), Math.floor((event.clientX - box.left) / cellWidth), false);
    });
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && point(...at, true));
    canvas.addEventListener("blur", leave);
    canvas.addEventListener("keydown", (event) => {
      const [row, column] = at;
      const moves = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], Home: [row, 0], End: [row, width - 1], PageUp: [row - 10, column], PageDown: [row + 10, column] };
      const block = lines[row].block ?? lines[row].within;
      if ((event.key === "Enter" || event.key === " ") && block !== undefined) {
        if (!open.delete(block)) open.add(block);
        layOut();
        point(lines.findIndex((line) => line.block === block), column, true);
      } else if (moves[event.key]) point(...moves[event.key], true);
      else return;
      event.preventDefault();
    });
    unfold.addEventListener("click", () => {
      if (open.size) open.clear();
      else for (const block of members.keys()) open.add(block);
      layOut();
    });

    // The numbers of one block as a table, where the page has no room for those of all.
    const choice = id("block-choice");
    if (choice) {
      id("block-details").hidden = false;
      const fill = () => {
        const table = make("table");
        const head = table.createTHead().insertRow();
        const headed = (words, scope) => {
          const cell = make("th", words);
          cell.scope = scope;
          return cell;
        };
        head.append(headed("Tensor", "col"), ...heat.columns.map((one) => headed(one[1], "col")));
        const body = table.createTBody();
        for (const row of members.get(choice.value)) {
          const line = body.insertRow();
          line.append(headed(heat.rows[row], "row"));
          heat.columns.forEach((_, column) => line.append(make("td", meaning(cells[row * width + column], row, column).replace("about ", ""), "n")));
        }
        const scroller = make("div", "", "scroll");
        scroller.tabIndex = 0;
        scroller.append(table);
        id("block-table").replaceChildren(scroller);
      };
      for (const block of members.keys()) choice.append(new Option(block, block));
      choice.addEventListener("change", fill);
      id("block-details").addEventListener("toggle", fill);
    }

    layOut();
    redraws.push(draw);
    new ResizeObserver(draw).observe(scroll);
    // On paper the theme is light, which the styles of paper say only after this event.
    let theme;
    addEventListener("beforeprint", () => {
      theme = root.dataset.theme;
      root.dataset.theme = "light";
      draw();
    });
    addEventListener("afterprint", () => {
      if (theme) root.dataset.theme = theme;
      else delete root.dataset.theme;
      draw();
    });
  };
  if (heat.rows) drawHeat();
  themed();
})();
