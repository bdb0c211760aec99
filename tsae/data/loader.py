"""Ways through a data set: shuffled, split and resumed (`LatentLoader`), or straight on (`LatentStream`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tsae.data.dataset import Batch, LatentDataset, collate
from tsae.data.order import WINDOW, BatchOrder, Uneven


class LatentLoader:
    """A DataLoader whose order depends on seed and epoch alone, and that can go on in mid-epoch.

    What is promised: with equal data sets, seed, epoch, rank, world size and batch size the batches are equal, for every number
    of workers and start method. A state tells how many images have been handed out; workers read ahead of that, which does
    not count. Taken up by the same number of ranks, it gives exactly the batches that were still to come; by another
    number, or with another batch size, all images that were still to come, once each (see `BatchOrder` for the last ones).

    Each iteration is an epoch, or the rest of the one whose state was loaded, and the next one is the epoch after. One that
    is left early begins again where it began.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int = 256,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "keep",
        window: int = WINDOW,
        **options: Any,
    ) -> None:
        """Makes a DataLoader; workers start with the first iteration.

        Args:
            dataset: What is loaded.
            batch_size: Images of a batch of this rank.
            shuffle: See `BatchOrder`, as the next five.
            seed: See there.
            rank: See there.
            world_size: See there.
            uneven: See there.
            window: See there.
            options: Of the DataLoader: `num_workers`, `persistent_workers`, `multiprocessing_context`, `pin_memory` ...

        Raises:
            ValueError: if a number is not as described.
        """
        self.dataset = dataset
        self.order = BatchOrder(
            dataset.groups, batch_size, shuffle, seed, rank, world_size, uneven, window, fingerprint=dataset.fingerprint
        )
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=self.order, collate_fn=collate, **options)  # type: ignore[arg-type]
        self._done = 0

    def __len__(self) -> int:
        """Batches of the next iteration."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch."""
        self._done = 0
        for batch in self._loader:
            self._done += 1  # before it is handed out: who asks for the state then has had this batch
            yield batch
        self.set_epoch(self.order.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration this epoch, from its start."""
        self.order.set_epoch(epoch)
        self._done = 0

    def state_dict(self) -> dict[str, Any]:
        """Which epoch, and how many of its images all ranks together have had; JSON values only.

        Every rank has the same state after the same step, so one of them need save it.
        """
        return self.order.state(self._done)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration the rest of the epoch of a state.

        Raises:
            ValueError: if the state is of other images, another archive state say, or of another order.
        """
        self.order.load_state(state)
        self._done = 0


class LatentStream(IterableDataset[Batch]):
    """The images of a data set in its order, batch after batch: for `DataLoader(..., batch_size=None)`, or by itself.

    Workers take turns, so the order is the same for every number of them. Each row group is read as it comes; the larger a
    batch, the fewer workers read the same one.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int = 1024,
        *,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "keep",
        start: int = 0,
    ) -> None:
        """Takes the data set.

        Args:
            dataset: What is read.
            batch_size: Images of a batch of this rank.
            rank: See `BatchOrder`, as the next two.
            world_size: See there.
            uneven: See there.
            start: Images to leave out, of all ranks together: to go on, as many as have been had.

        Raises:
            ValueError: if a number is not as described.
        """
        self.dataset = dataset
        self.order = BatchOrder(dataset.groups, batch_size, False, 0, rank, world_size, uneven, images=start)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this worker, or all of them outside of one."""
        worker = get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        for number, indices in enumerate(self.order):
            if number % turns == turn:
                yield self.dataset.__getitems__(indices)
