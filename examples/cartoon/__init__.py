"""A procedural cartoon world, in which memory can be measured.

    python -m examples.cartoon.show --seed=3 --out=story.png
    python -m examples.cartoon.dataset --out=DIR --stories=100 --segments=21

A story (`story.Story`) has 2 or 3 named characters, 2 to 4 places, and scenes
of 1 to 4 segments with hard cuts between them. What makes it a test of memory:

*   A caption describes the look of a character at its first appearance, "Pip,
    a blue fox with a red scarf, walks to the tree.", and later ones only the
    name. Species, colours and accessory are drawn anew in every story.
*   The same holds for places: "The barn is yellow, left of the tree, with a
    jug."
*   A prop changes at most once, in a segment whose caption describes it, and
    stays changed: the jug is broken, the lamp is lit.
*   Characters and places are left and return, after 1 to 20 segments.

Everything else is in every caption: the characters, their acts, the place and
the pan of the camera. Captions have at most 30 words and punctuation marks, of
a vocabulary of 113 (`words.VOCABULARY`).

    from examples.cartoon import captions, motion, render, world

    settings = world.Settings(species=3, pans=0.0)  # its fields: all choices
    story = world.draw_story(3, 21, settings, split='test')
    texts = captions.captions(story)       # 21 captions
    frames = render.frames(story, 64, 96)  # uint8 [1009, 64, 96, 3]
    state = motion.state(story, 500)       # everything that frame 500 shows
    picture = render.frame(state, 64, 96)  # also of a state that was changed

Splits: a tenth of the looks is seen in validation stories only, and a tenth in
test stories only (`world.split_of`); each split has random numbers of its own.

Frames: a story of S segments has 48 S + 1 frames, 16 per second. Frame 0 is one
additional first frame; segment s, from 0, has the frames 48 s + 1 to 48 s + 48.
Lengths are in heights of the picture, so all sizes with the aspect 3:2 show the
same; from about 32x48 on the looks can be told apart.

Modules: `words` has the vocabulary, `story` the truth of a story, and `world`
draws one with the help of `plot` and `behaviour`; `motion` has the state of
frames, `pen`, `scenery` and `render` the pictures, `captions` the English,
`script` reads it; `dataset` and `show` are commands. `judge` is the judge of
videos, docs/judge.md: `sight` recognizes what they show with the help of
`backdrops`, `sprites`, `gains`, `recognize`, `identity`, `track` and `acts`,
`scoring` compares it with the story, `returns` finds memory events, `degrade`
and `self_test` test the judge. `comparison` trains a small model with every
mixer and judges its stories (docs/remember.md); its autoencoder is `linear`.
"""
