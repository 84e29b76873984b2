from PIL import Image

from tests.helpers import commands


def test_writes_a_picture_and_prints_captions(tmp_path):
  path = tmp_path / 'story.png'
  process = commands.run(
    'examples.cartoon.show', f'--out={path}', '--segments=2', '--height=32'
  )
  assert process.returncode == 0, process.stderr
  assert 'Rex, a blue rabbit' in process.stdout
  assert Image.open(path).width > 300


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'story.gif'
  process = commands.run('examples.cartoon.show', f'--out={path}')
  assert process.returncode == 2
  assert process.stderr == f'error: --out={path} must end in .png or .mp4\n'
  assert not path.exists()
