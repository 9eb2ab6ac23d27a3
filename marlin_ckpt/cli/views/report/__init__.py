"""The page that `report` makes: one HTML file, without anything from elsewhere.

- `written`: the file that it is written to, and the document of `--json`.
- `page`: the whole of it; `summary`: its head.
- Sections: `metrics`, drawn by `curves`, `marks` and `legends` as `course` plans; `timeline` of saves;
  `movement` of norms; `histograms`; `sizes`; `retention`; `runs`; `checkpoints`.
- `parts/`: what sections are made of.

`report.css` and `report.js` are put into the page. It is complete without the script, but for the heat map;
the script points at values, draws that map, and changes the theme. What it says of a value it reads from the
tables that are in the page, so that both are the same.
"""
