"""Directives of the reference, whose content comes from the code.

    ```{command-flags} launch.stages
    ```

shows the usage and the flags of a command,

    ```{all-commands}
    ```

those of every command of `ttt-jax`, each in a section, and

    ```{config-fields} ttt_jax.config_schema.Training
    :prefix: config.
    ```

the fields of a dataclass or a Struct.
"""

from __future__ import annotations

import command_flags
import config_fields
from docutils.parsers.rst import directives
from sphinx.util import docutils


class CommandFlags(docutils.SphinxDirective):
  """Inserts the reference of one command."""

  required_arguments = 1

  def run(self):
    lines = command_flags.markdown(self.arguments[0])
    return self.parse_text_to_nodes('\n'.join(lines))


class AllCommands(docutils.SphinxDirective):
  """Inserts a section for each command of `ttt-jax`."""

  def run(self):
    lines = []
    for name, module in command_flags.commands():
      lines += [f'## {name}', '', *command_flags.markdown(module), '']
    return self.parse_text_to_nodes(
      '\n'.join(lines), allow_section_headings=True
    )


class ConfigFields(docutils.SphinxDirective):
  """Inserts the fields of one class."""

  required_arguments = 1
  option_spec = {'prefix': directives.unchanged}

  def run(self):
    lines = config_fields.markdown(
      self.arguments[0], self.options.get('prefix', '')
    )
    return self.parse_text_to_nodes('\n'.join(lines))


def setup(app):
  app.add_directive('all-commands', AllCommands)
  app.add_directive('command-flags', CommandFlags)
  app.add_directive('config-fields', ConfigFields)
  return {'parallel_read_safe': True}
