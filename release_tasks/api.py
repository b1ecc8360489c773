"""The public API for Python programs: the stages as functions, their records and their errors.

``from release_tasks import prepare_release`` imports from here. docs/library.md shows how to use them.
"""

from release_tasks.archive.diff import Comparison as Comparison
from release_tasks.archive.diff import compare_releases as compare_releases
from release_tasks.archive.status import ReleaseStatus as ReleaseStatus
from release_tasks.archive.status import release_status as release_status
from release_tasks.archive.verify import SnapshotVerdict as SnapshotVerdict
from release_tasks.config.schema import Settings as Settings
from release_tasks.core.audit import AuditVerdict as AuditVerdict
from release_tasks.core.errors import ConfigError as ConfigError
from release_tasks.core.errors import ExitCode as ExitCode
from release_tasks.core.errors import Interrupted as Interrupted
from release_tasks.core.errors import LockHeld as LockHeld
from release_tasks.core.errors import StageError as StageError
from release_tasks.core.errors import StageFailed as StageFailed
from release_tasks.core.errors import UsageError as UsageError
from release_tasks.core.events import Emit as Emit
from release_tasks.core.events import Event as Event
from release_tasks.core.interrupt import interruptible as interruptible
from release_tasks.core.records import Check as Check
from release_tasks.core.records import HealthReport as HealthReport
from release_tasks.core.records import Manifest as Manifest
from release_tasks.core.records import PreflightReport as PreflightReport
from release_tasks.core.records import RollbackOutcome as RollbackOutcome
from release_tasks.core.records import RollbackState as RollbackState
from release_tasks.core.records import SnapshotMetadata as SnapshotMetadata
from release_tasks.stages.diagnose.guide import Diagnosis as Diagnosis
from release_tasks.stages.diagnose.guide import diagnose_service as diagnose_service
from release_tasks.stages.diagnose.signals import Signals as Signals
from release_tasks.stages.drill.engine import run_drill as run_drill
from release_tasks.stages.drill.outcome import DrillOutcome as DrillOutcome
from release_tasks.stages.extract import Extraction as Extraction
from release_tasks.stages.extract import extract_snapshot as extract_snapshot
from release_tasks.stages.notifications.sending import Notices as Notices
from release_tasks.stages.notifications.sending import Notifications as Notifications
from release_tasks.stages.preflight.engine import PreflightRun as PreflightRun
from release_tasks.stages.preflight.engine import run_preflight as run_preflight
from release_tasks.stages.prepare import begin_release as begin_release
from release_tasks.stages.prepare import prepare_release as prepare_release
from release_tasks.stages.rollback.engine import roll_back as roll_back
from release_tasks.stages.rollback.plan import RollbackPlan as RollbackPlan
from release_tasks.stages.rollback.plan import plan_rollback as plan_rollback
from release_tasks.stages.rollback.recovery import RecoveryReport as RecoveryReport
from release_tasks.stages.rollback.recovery import recover as recover
from release_tasks.stages.verify import Verification as Verification
from release_tasks.stages.verify import verify_audit as verify_audit
from release_tasks.stages.verify import verify_snapshots as verify_snapshots
from release_tasks.stages.watch.watching import WatchReport as WatchReport
from release_tasks.stages.watch.watching import watch_release as watch_release
from release_tasks.tasks.flags import with_flags as with_flags
from release_tasks.tasks.project import load_project as load_project
