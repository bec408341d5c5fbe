#!/usr/bin/env bash
# Builds docs/ as a site into target/site/docs with mdBook, puts the files that pages link to outside of docs/ beside it, and checks
# every link and every anchor of what came out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v mdbook >/dev/null; then
  echo 'mdbook is not installed; install it with: cargo install --locked mdbook' >&2
  exit 1
fi
site=target/site
rm -rf "$site"
mdbook build
# mdBook makes index.html of README.md, and leaves links to it as README.html.
git ls-files 'docs/README.md' 'docs/**/README.md' | while read -r page; do
  cp "$site/$(dirname "$page")/index.html" "$site/${page%.md}.html"
done

# A page without a theme: what a forge renders is shown as its text. Headings have the anchors that a forge gives them.
plain() {
  printf '<!DOCTYPE html>\n<meta charset="utf-8">\n<title>%s</title>\n<main>\n<pre>\n' "$1"
  sed 's/&/\&amp;/g; s/</\&lt;/g' | awk '
    /^ *```/ { code = !code }
    !code && /^#+ / {
      id = tolower($0); sub(/^#+ */, "", id); gsub(/ /, "-", id); gsub(/[^a-z0-9_-]/, "", id)
      printf "<b id=\"%s\">%s</b>\n", id, $0; next
    }
    { print }'
  printf '</pre>\n</main>\n'
}

# Links of docs/ that lead out of it, as paths from the root.
outside() {
  local page link target
  git ls-files 'docs/*.md' | while read -r page; do
    # Code is no link.
    { awk '/^ *```/ { code = !code } !code' "$page" | grep -o '](\.\./[^)#]*' || true; } | cut -c3- | while read -r link; do
      target=$(realpath -m --relative-to=. "$(dirname "$page")/$link")
      case $target in docs | docs/*) ;; *) echo "$target" ;; esac
    done
  done | sort -u
}

for target in $(outside); do
  mkdir -p "$site/$(dirname "$target")"
  if [ -d "$target" ]; then
    mkdir -p "$site/$target"
    git ls-files "$target" | while read -r file; do
      mkdir -p "$site/$(dirname "$file")"
      cp "$file" "$site/$file"
      echo "<a href=\"${file#"$target"/}\">${file#"$target"/}</a>"
    done | { printf '<!DOCTYPE html>\n<meta charset="utf-8">\n<title>%s</title>\n<pre>\n' "$target"; cat; } >"$site/$target/index.html"
  elif [[ $target == *.md ]]; then
    # mdBook has made .html of the link.
    plain "$target" <"$target" >"$site/${target%.md}.html"
  else
    cp "$target" "$site/$target"
  fi
done
printf '<!DOCTYPE html>\n<meta http-equiv="refresh" content="0; url=docs/index.html">\n' >"$site/index.html"

# Every link leads to a file, and every anchor to an element of it. What mdBook adds to each page is its own.
find "$site" -name '*.html' -not -name print.html -not -name toc.html -print0 | xargs -0 awk -v site="$site" '
  FNR == 1 { page = FILENAME; dir = page; sub(/[^\/]*$/, "", dir); inside = 0 }
  { pages[page] = 1 }
  /<main>/ { inside = 1 }
  { rest = $0; while (match(rest, / id="[^"]*"/)) { ids[page "#" substr(rest, RSTART + 5, RLENGTH - 6)] = 1; rest = substr(rest, RSTART + RLENGTH) } }
  inside { rest = $0; while (match(rest, /(href|src)="[^"]*"/)) {
    link = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH); sub(/^[a-z]*="/, "", link); sub(/"$/, "", link)
    if (link !~ /^[a-z]+:/) links[page SUBSEP link] = dir } }
  /<\/main>/ { inside = 0 }
  END {
    for (key in links) {
      split(key, parts, SUBSEP); file = parts[2]; anchor = ""
      if ((at = index(file, "#")) > 0) { anchor = substr(file, at + 1); file = substr(file, 1, at - 1) }
      target = file == "" ? parts[1] : links[key] file
      while (sub(/[^\/]+\/\.\.\//, "", target)) {}
      if (file == "" || target in pages) { if (anchor != "" && !((target "#" anchor) in ids)) wrong(parts[1], parts[2]) }
      else if (system("test -e \"" target "\"") != 0) wrong(parts[1], parts[2])
      count++
    }
    if (bad) exit 1
    printf "%d links lead somewhere; the site is %s/docs/index.html\n", count, site
  }
  function wrong(page, link) { printf "%s: %s leads nowhere\n", page, link > "/dev/stderr"; bad = 1 }'
