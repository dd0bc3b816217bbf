package org.apache.kafka.common.utils;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Supplier;

/**
 * Stands before Kafka's own class of this name: the time of day is that of the machine and as
 * many seconds as the file says that the property spillway.clock names. Durations are
 * measured as ever.
 */
final class SystemTime implements Time {
    private static final SystemTime ONLY = new SystemTime(Path.of(System.getProperty("spillway.clock")));

    private volatile long aheadMillis;

    private SystemTime(Path file) {
        Thread reader = new Thread(() -> {
            while (true) {
                try {
                    aheadMillis = 1000 * Long.parseLong(Files.readString(file).strip());
                    Thread.sleep(100);
                } catch (IOException | InterruptedException | NumberFormatException e) {
                    return; // the test removes the file when the broker ends
                }
            }
        }, "clock");
        reader.setDaemon(true);
        reader.start();
    }

    public static SystemTime getSystemTime() {
        return ONLY;
    }

    @Override
    public long milliseconds() {
        return System.currentTimeMillis() + aheadMillis;
    }

    @Override
    public long nanoseconds() {
        return System.nanoTime();
    }

    @Override
    public void sleep(long millis) {
        Utils.sleep(millis);
    }

    @Override
    public void waitObject(Object lock, Supplier<Boolean> met, long deadlineMillis) throws InterruptedException {
        synchronized (lock) {
            while (!met.get()) {
                long left = deadlineMillis - milliseconds();
                if (left <= 0) {
                    throw new org.apache.kafka.common.errors.TimeoutException("not met in time");
                }
                lock.wait(left);
            }
        }
    }
}
