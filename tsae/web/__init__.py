"""An archive for browsers: the page that shows it, and a layout of its records that is fit for HTTP range requests.

`docs/WEB.md` is the layout's text. Owns no server: `export` writes files for any, `served` answers with the same bytes.
"""

from tsae.web.export import Exported as Exported
from tsae.web.export import export_web as export_web
from tsae.web.page_files import read_page as read_page
from tsae.web.served import ServedArchive as ServedArchive
