"""The style sheet of all reports: light, dark and paper. Each colour is a variable that these three set."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #566074; --line: #d9dde6; --back: #fff; --card: #f5f6f9;
  --bar: #2f6fbd; --cut: #c2410c; --warn-back: #fff4e5; --warn: #8a3c00; --good: #00682f; --frame: #00a34a;
  --bad: #a3262a; --series-1: #2f6fbd; --series-2: #c2410c; --series-3: #00773a; --series-4: #7b3fb5; --series-5: #8a6d00;
  --series-6: #b0256e; --series-7: #00707f; --series-8: #5b5f66; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --soft: #a5afc0; --line: #3a4354; --back: #14181f; --card: #1d232d;
  --bar: #6ea8f0; --cut: #ff9d63; --warn-back: #3a2710; --warn: #ffc78a; --good: #6fdc9b; --frame: #35c776;
  --bad: #ff9a94; --series-1: #6ea8f0; --series-2: #ff9d63; --series-3: #6fdc9b; --series-4: #c59bff; --series-5: #e3c44c;
  --series-6: #ff8fc4; --series-7: #56cfe0; --series-8: #b9bec8; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #333; --line: #bbb; --back: #fff; --card: #fff;
  --bar: #2f6fbd; --cut: #c2410c; --warn-back: #fff; --warn: #8a3c00; --good: #00682f; --frame: #00a34a;
  --bad: #a3262a; --series-1: #2f6fbd; --series-2: #c2410c; --series-3: #00773a; --series-4: #7b3fb5; --series-5: #8a6d00;
  --series-6: #b0256e; --series-7: #00707f; --series-8: #5b5f66; }
  nav { display: none; } figure, article, tr, .warnings { break-inside: avoid; } h2 { break-after: avoid; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: var(--ink);
  background: var(--back); overflow-wrap: anywhere; }
h1 { line-height: 1.2; margin: 1rem 0 .5rem; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 .5rem; } a { color: var(--bar); } nav a { margin-right: 1rem; } small, .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; overflow-wrap: normal; } caption { text-align: left; color: var(--soft); padding: .25rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } tbody th { font-weight: 400; } td.foreign { overflow-wrap: anywhere; min-width: 8rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.warnings { background: var(--warn-back); color: var(--warn); border-left: 4px solid var(--warn); padding: .5rem 1rem;
  margin: 1rem 0; }
.warnings ul { margin: .25rem 0; padding-left: 1.25rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figure img, figure svg { max-width: 100%; height: auto; display: block; } figcaption { font-size: .9rem; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg .bar { fill: var(--bar); } svg .cut { fill: var(--cut); }
svg .axis { stroke: var(--line); } svg .mark { stroke: var(--cut); stroke-dasharray: 3 2; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; display: flex; gap: .75rem;
  overflow: clip; font-size: .9rem; min-width: 0; }
article > div { min-width: 0; flex: 1; }
article img { width: 8rem; height: 8rem; object-fit: contain; object-position: top left; flex: none; }
article p, article ul { margin: 0 0 .5rem; } article ul { padding-left: 1.25rem; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 30rem) { article { flex-direction: column; } }
.example { display: flex; gap: 1rem; align-items: flex-start; margin: 1rem 0; flex-wrap: wrap; }
.example img { height: 7rem; border: 4px solid transparent; border-radius: 4px; }
.right { color: var(--good); font-weight: 600; } img.right { border-color: var(--frame) !important; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem; margin: 1rem 0; }
.figure-card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem; }
.figure-card h3 { margin: 0; font-size: 1rem; } .figure-card p { margin: .25rem 0; line-height: 1.35; }
.big { font-size: 2.25rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2 !important; }
.better { color: var(--good); } .worse { color: var(--bad); } .better small, .worse small { color: var(--soft); }
.decision { border-left: 4px solid var(--line); padding: .25rem .75rem; color: var(--ink); }
.decision.better { border-color: var(--frame); }
svg.figure { width: 100%; } figure.broad { max-width: 38rem; margin: 1rem 0; }
.queries { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
.query ol, .query ul { margin: 0; padding-left: 1.5rem; } .query p { margin: 0 0 .5rem; } .query.rows { flex-direction: column; }
.query li { margin-bottom: .15rem; } .query details { margin-top: .5rem; }
.answers { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .4rem; width: 100%; }
.answer { text-align: center; font-size: .8rem; } .answer span { display: block; }
.answers img { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border: 3px solid transparent; border-radius: 4px; }
@media (max-width: 30rem) { .answers { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
.far { border-left: 2px solid var(--line); padding-left: .4rem; }
dl { margin: 0; } dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
.dense table { font-size: .85rem; }
.confusion th, .confusion td { padding: .2rem .35rem; vertical-align: middle; font-size: .85rem; }
.confusion thead th { vertical-align: bottom; } .confusion thead th span { writing-mode: vertical-rl; transform: rotate(180deg);
  white-space: nowrap; } .confusion tbody th { white-space: nowrap; }
.confusion td { text-align: right; min-width: 1.9rem; font-variant-numeric: tabular-nums; print-color-adjust: exact;
  background: color-mix(in srgb, var(--cut) calc(var(--share, 0) * 45%), transparent); }
.confusion td.hit { background: color-mix(in srgb, var(--bar) calc(var(--share, 0) * 45%), transparent); font-weight: 600; }
@media print { .wide { overflow: visible; } .dense table { font-size: .6rem; } .dense :is(th, td) { padding-right: .4rem; }
  .query details::details-content { content-visibility: visible; block-size: auto; }
  body { max-width: none; padding: 0; font-size: 14px; } }
"""
