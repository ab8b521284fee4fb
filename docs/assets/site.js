// Lets the keyboard scroll what is wider than the page, and names the search and the buttons of code
// for screen readers.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, i) => nav.setAttribute("aria-label", `Code ${i + 1}`));
  for (const node of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, div:has(> table.dataframe)")) {
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }
});
