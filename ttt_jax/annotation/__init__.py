"""From raw episodes to captions: scenes, segments, and a page to write them."""
