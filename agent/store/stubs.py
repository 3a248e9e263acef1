"""What is stored as the attachments of a new revision: contents, and what stubs stand for.

A stub is the name of an attachment whose content was left out, since the receiver has it. Runs in
the writer's thread, blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, stored_text
from agent.documents.revision import Rev, Revision
from agent.errors import MissingStubError
from agent.store.blobs import Blobs
from agent.store.document_rows import Document, DocumentRows


class Stubs:
    """Looks for what stubs stand for, within a transaction of the writer."""

    def __init__(self, rows: DocumentRows, blobs: Blobs) -> None:
        self._rows = rows
        self._blobs = blobs

    def of_revision(self, revision: Revision, document: Document | None) -> str | None:
        """The text to store; of content that comes with the revision the blobs are kept.

        Raises MissingStubError.
        """
        if not revision.attachments:
            return None
        ancestors = [
            Rev(revision.generation - step, digest)
            for step, digest in enumerate(revision.path)
            if step
        ]

        def find(stub: Attachment) -> Attachment | None:
            if document is None:
                return None
            for rev in ancestors:
                for known in self._rows.attachments(document, rev):
                    if _stands_for(stub, known):
                        return known
            return next(
                (
                    known
                    for rev in document.tree.all_revs()
                    for known in self._rows.attachments(document, rev)
                    if known.name == stub.name and known.digest == stub.digest
                ),
                None,
            )

        return stored_text(
            self._settled(revision.attachments, revision.id, revision.generation, find)
        )

    def of_edit(
        self, id: str, given: Sequence[Attachment], parent: Rev | None, document: Document | None
    ) -> tuple[Attachment, ...]:
        """Those of the child of `parent`. Raises MissingStubError."""
        there = self._rows.attachments(document, parent) if document is not None and parent else ()

        def find(stub: Attachment) -> Attachment | None:
            return next((known for known in there if _stands_for(stub, known)), None)

        # What an edit brings is new with it, whatever the client says.
        new = [stub if stub.content is Absent.STUB else replace(stub, revpos=0) for stub in given]
        generation = 1 if parent is None else parent.generation + 1
        return tuple(self._settled(new, id, generation, find))

    def _settled(
        self,
        attachments: Sequence[Attachment],
        id: str,
        generation: int,
        find: Callable[[Attachment], Attachment | None],
    ) -> list[Attachment]:
        """With their contents stored, each stub replaced by what `find` has for it."""
        kept = []
        for attachment in attachments:
            found = self._blobs.keep(attachment)
            if found is None:
                found = find(attachment)
                found = found and self._blobs.keep(found)
            if found is None:
                raise MissingStubError(f"Invalid attachment stub in {id} for {attachment.name}")
            kept.append(found if found.revpos else replace(found, revpos=generation))
        return kept


def _stands_for(stub: Attachment, known: Attachment) -> bool:
    """CouchDB wants the `revpos` of a stub to be the attachment's, if there is one."""
    return stub.name == known.name and stub.revpos in (0, known.revpos)
