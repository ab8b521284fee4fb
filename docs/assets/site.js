// Lets the keyboard scroll what is wider than the page, and names the search for screen readers.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const node of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, div:has(> table.dataframe)")) {
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }
});
