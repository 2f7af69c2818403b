"""The template of report/index.html. Its shell is that of all pages: classifier/page.py."""

TEMPLATE = """{% extends "shell" %}
{% block title %}{{ title }}: {{ stage }}{% endblock %}
{% block css %}
  .verdict { margin: 1.1rem 0; padding: .6rem 1.1rem; background: var(--blue-wash);
    border-left: 5px solid var(--blue); font-size: 1.08rem; overflow-wrap: anywhere; }
  .note { margin: .5rem 0; padding: .35rem 1.1rem; background: var(--amber-wash);
    border-left: 5px solid var(--amber); overflow-wrap: anywhere; font-size: .92rem; }
  .note ul { margin: .3rem 0; padding-left: 1.2rem; font-size: .86rem; }
  .beside { display: flex; flex-wrap: wrap; gap: 1.2rem 2.5rem; align-items: flex-start; }
  .beside > * { min-width: 0; max-width: 100%; }
  .pictures { display: grid; gap: 1.4rem 2rem; margin-bottom: 1.2rem;
    grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
  .beside th, .beside td { padding: .25rem .5rem; }
  figure { margin: 0; min-width: 0; }
  .beside figure { min-width: min(20rem, 100%); }
  figure svg text { white-space: pre; }
  figure.wide svg { max-width: none; }
  figure.wide { max-width: 100%; }
  @media (min-width: 64rem) { figure.wide svg { max-width: 100%; } }
  figcaption { margin-top: .4rem; max-width: 44rem; color: var(--dim); font-size: .86rem; }
  .beside figcaption { width: 0; min-width: 100%; }
  th { font-weight: 600; }
  td.name, th.name { max-width: 18rem; overflow-wrap: anywhere; }
  td.name { min-width: 5rem; }
  td.n.bar { --tint: color-mix(in srgb, var(--blue) 15%, transparent);
    background: linear-gradient(to right, var(--tint) var(--share), transparent var(--share)); }
  th.scale { white-space: nowrap; }
  .dim { color: var(--dim); }
  tr.first td { font-weight: 600; }
  svg.range { width: 9rem; height: .8rem; overflow: visible; }
  .thumbs { display: grid; gap: 1rem; margin: .8rem 0; padding: 0; list-style: none;
    grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); font-size: .82rem; }
  .thumbs li { min-width: 0; overflow-wrap: anywhere; line-height: 1.35; }
  .thumbs .frame { display: flex; align-items: center; justify-content: center; height: 8.2rem;
    margin-bottom: .35rem; background: var(--line); border-radius: 4px; overflow: hidden; }
  .thumbs img { width: 100%; height: 100%; object-fit: contain; }
  .said { color: var(--orange); font-weight: 600; }
  .true { color: var(--blue); font-weight: 600; }
  details { margin: .8rem 0; }
  summary { cursor: pointer; }
  pre { margin: .6rem 0; padding: .8rem 1rem; overflow-x: auto; font-size: .82rem;
    line-height: 1.45; background: var(--blue-wash); border-radius: 4px; }
  .facts-of { flex: 1 1 18rem; }
  .facts-of h3 { margin: .4rem 0; font-size: 1rem; }
  .facts-of td { overflow-wrap: anywhere; }
  .facts-of th { font-weight: normal; color: var(--dim); white-space: nowrap;
    vertical-align: top; }
  .files { columns: 14rem; padding-left: 1.2rem; font-size: .9rem; overflow-wrap: anywhere; }
  @media print { .thumbs li, figure, tr { break-inside: avoid; } }
{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
<p class="verdict">{{ verdict }}</p>
{% for note in notes %}{% if note.lines %}<details class="note"><summary>{{ note.text }}</summary>
<ul>{% for line in note.lines %}<li>{{ line }}</li>{% endfor %}</ul></details>
{% else %}<p class="note">{{ note.text }}</p>{% endif %}
{% endfor %}
{% if headline.rows %}<h2>Figures</h2>
<div class="scroll"><table>
<thead><tr><th>metric</th>{% for column in headline.columns %}
<th colspan="2">{{ column }}</th>{% endfor %}
{% if headline.scale %}<th class="scale">{{ headline.scale }}</th>{% endif %}</tr></thead>
<tbody>{% for row in headline.rows %}<tr{% if loop.first %} class="first"{% endif %}>
<td>{{ row.name }}</td>
{% for cell in row.cells %}<td class="n">{{ cell.value }}</td>
<td class="n dim">{{ cell.interval }}</td>{% endfor %}
{% if headline.scale %}<td>{% if row.range %}<svg class="range" viewBox="0 0 100 10"
 preserveAspectRatio="none" aria-hidden="true"><path d="M0 5H100" stroke="var(--line)"
 stroke-width="1"/><path d="M{{ row.range.low }} 5H{{ row.range.high }}" stroke="var(--blue)"
 stroke-width="3"/><path d="M{{ row.range.value }} 0V10" stroke="currentColor"
 stroke-width="1"/></svg>{% endif %}</td>{% endif %}</tr>{% endfor %}</tbody>
</table></div>
{% if headline.scale %}<p class="facts">In brackets: 95 % intervals, that is what other
images of the same kind could have given.</p>{% endif %}{% endif %}
{% if headline.further %}<details><summary>Further figures</summary><div class="scroll"><table>
<thead><tr><th>metric</th>{% for column in headline.columns %}<th>{{ column }}</th>{% endfor %}
</tr></thead><tbody>{% for row in headline.further %}<tr><td>{{ row.name }}</td>
{% for cell in row.cells %}<td class="n">{{ cell.value }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div></details>{% endif %}
{% for section in sections %}<h2>{{ section.title }}</h2>
<div class="{{ "beside" if section.beside else "pictures" }}">
{% for picture in section.pictures %}<figure{% if picture.wide %} class="wide"{% endif %}>
<div class="scroll">{{ picture.svg | safe }}</div>
<figcaption>{{ picture.caption }}{% if picture.file %}
<a href="{{ picture.file }}">png</a>{% endif %}</figcaption></figure>
{% endfor %}
{% if section.pairs %}<div class="scroll"><table>
<thead><tr><th>truth</th><th>taken for</th><th>images</th><th>of the class</th></tr></thead>
<tbody>{% for pair in section.pairs %}<tr><td class="name">{{ pair.truth }}</td>
<td class="name">{{ pair.prediction }}</td><td class="n">{{ pair.count }}</td>
<td class="n bar" style="--share: {{ pair.width }}%">{{ pair.share }}</td></tr>
{% endfor %}</tbody>
</table></div>{% endif %}
{% if section.classes %}{% if section.folded %}<details><summary>All {{ section.classes | length }}
classes, weakest first</summary>{% endif %}<div class="scroll"><table>
<thead><tr><th>class</th>{% for column in section.columns %}<th>{{ column }}</th>{% endfor %}</tr>
</thead>
<tbody>{% for row in section.classes %}<tr><td class="name">{{ row.name }}</td>
{% for cell in row.cells %}<td class="n{% if cell.width is not none %} bar" style="--share:
 {{ cell.width }}%{% endif %}">{{ cell.text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>{% if section.folded %}</details>{% endif %}{% endif %}
</div>
{% endfor %}
{% if thumbnails %}<h2>The worst errors</h2>
<p class="facts">{{ thumbnails | length }} of {{ num_errors }} images that were not taken for what
they are, those first whose truth the model held least likely.</p>
<ul class="thumbs">{% for thumbnail in thumbnails %}<li>
<div class="frame">{% if thumbnail.source %}<img alt="" src="{{ thumbnail.source }}">{% else %}
<span class="dim">no picture</span>{% endif %}</div>
<div><span class="said">{{ thumbnail.prediction }}</span> {{ thumbnail.score }}</div>
<div>is <span class="true">{{ thumbnail.truth }}</span> {{ thumbnail.truth_score }}</div>
<div class="dim">{{ thumbnail.path | join("/<wbr>" | safe) }}</div></li>
{% endfor %}</ul>{% endif %}
{% if facts %}<h2>How this came about</h2>
<div class="beside">{% for group, rows in facts.items() %}<div class="facts-of">
<h3>{{ group }}</h3><table>{% for name, text in rows.items() %}
<tr><th>{{ name }}</th><td>{{ text }}</td></tr>{% endfor %}</table></div>
{% endfor %}</div>{% endif %}
{% if config_text %}<details><summary>The configuration</summary><pre>{{ config_text }}</pre>
</details>{% endif %}
{% if files %}<h2>Files</h2>
<ul class="files">{% for file in files %}<li><a href="{{ file.address }}">{{ file.name }}</a></li>
{% endfor %}</ul>{% endif %}
{% endblock %}
"""
