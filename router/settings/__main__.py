"""Print the JSON schema of `router.yaml`, which `config/router.schema.json` holds for editors."""

import json
import sys

from router.settings.tree import Settings

if __name__ == "__main__":
    sys.stdout.write(json.dumps(Settings.model_json_schema(), indent=2) + "\n")
