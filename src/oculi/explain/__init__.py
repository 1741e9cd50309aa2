"""Why a system answers as it does: one file per method, each taking any System."""
